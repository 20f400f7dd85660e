package relay

import (
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRelayPassesBytesInOrder(t *testing.T) {
	everywhere(t, allKinds, func(t *testing.T, r *rig) {
		r.start()
		for _, size := range []int{1, 125, 1 << 10, 1<<10 + 1, 100_000, 3} {
			r.client.expectEcho(r.upstream, message(size))
		}
	})
}

func TestRelayPassesGluedBytesFirst(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		glued := message(5000)
		w.glue(glued)
		w.from.send("after")
		w.start()
		w.to.expect(glued + "after")
		w.from.closeWrite()
		w.to.closeWrite()
		w.waitDone()
		w.expectAllTaken(w.d, uint64(len(glued)+len("after")))
		w.expectAllTaken(w.d.Opposite(), 0)
	})
}

func TestRelayPassesSingleBytes(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.start()
		const all = "one byte at a time"
		for _, b := range []byte(all) {
			w.from.send(string(b))
		}
		w.to.expect(all)
	})
}

func TestRelayPassesEachByteAtOnce(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.start()
		for _, b := range []byte("not held back") {
			w.from.send(string(b))
			w.to.expect(string(b))
		}
	})
}

func TestRelayCountsWhatPasses(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.start()
		w.from.send(message(3000))
		w.to.expect(message(3000))
		w.waitTaken(w.d, 3000)
		if read, taken := w.relay.Counts(w.d.Opposite()); read != 0 || taken != 0 {
			t.Errorf("%d bytes read and %d taken where none were sent", read, taken)
		}
	})
}

// bulkSize is how much goes each way in the bulk test: RELAY_BULK, such as 1GiB
// or 64MiB, or the default.
func bulkSize(t *testing.T, normal int64) int64 {
	t.Helper()
	value := os.Getenv("RELAY_BULK")
	if value == "" {
		return normal
	}
	shift := 20
	number, ok := strings.CutSuffix(value, "MiB")
	if !ok {
		number, ok = strings.CutSuffix(value, "GiB")
		shift = 30
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if !ok || err != nil {
		t.Fatalf("RELAY_BULK is %q, want something like 512MiB or 1GiB", value)
	}
	return n << shift
}

func TestRelayCarriesBulkBothWaysAtOnce(t *testing.T) {
	everywhere(t, allKinds, func(t *testing.T, r *rig) {
		size := bulkSize(t, int64(amount(64, 16))<<20)
		r.start()
		var results []<-chan uint32
		for d := range Direction(2) {
			w := r.way(d)
			results = append(results, w.from.pour(size), w.to.gather(size))
		}
		stop := make(chan struct{})
		go r.watchCounts(stop)
		for d := range 2 {
			sent, got := <-results[2*d], <-results[2*d+1]
			if got != sent {
				t.Errorf("direction %d: checksum %#x, want %#x", d, got, sent)
			}
		}
		stop <- struct{}{}
		r.client.closeWrite()
		r.upstream.closeWrite()
		r.waitDone()
		r.expectAllTaken(ClientToUpstream, uint64(size))
		r.expectAllTaken(UpstreamToClient, uint64(size))
	})
}

// pour sends size bytes in pieces of all kinds of sizes and gives their
// checksum.
func (e end) pour(size int64) <-chan uint32 {
	result := make(chan uint32, 1)
	go func() {
		block, sum := []byte(message(1<<20+7)), uint32(0)
		for i, left := 1, size; left > 0; i++ {
			n := min(left, int64(i*7919%len(block))+1)
			_ = e.SetWriteDeadline(time.Now().Add(patience))
			if _, err := e.Write(block[:n]); err != nil {
				e.tb.Errorf("sending: %v", err)
				break
			}
			sum = crc32.Update(sum, crc32.IEEETable, block[:n])
			left -= n
		}
		result <- sum
	}()
	return result
}

// gather reads size bytes and gives their checksum.
func (e end) gather(size int64) <-chan uint32 {
	result := make(chan uint32, 1)
	go func() {
		sum := crc32.NewIEEE()
		buf := make([]byte, 64<<10)
		for left := size; left > 0; {
			_ = e.SetReadDeadline(time.Now().Add(patience))
			n, err := io.ReadAtLeast(e, buf[:min(left, int64(len(buf)))], 1)
			if err != nil {
				e.tb.Errorf("receiving, %d bytes before the end: %v", left, err)
				break
			}
			_, _ = sum.Write(buf[:n])
			left -= int64(n)
		}
		result <- sum.Sum32()
	}()
	return result
}

// watchCounts checks, until stop is sent to, that the counts only grow and that
// nothing is taken that was not read.
func (r *rig) watchCounts(stop <-chan struct{}) {
	var lastRead, lastTaken [2]uint64
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
		for d := range Direction(2) {
			read, taken := r.relay.Counts(d)
			if taken > read || read < lastRead[d] || taken < lastTaken[d] {
				r.tb.Errorf("direction %d: %d bytes read and %d taken, after %d and %d",
					d, read, taken, lastRead[d], lastTaken[d])
			}
			lastRead[d], lastTaken[d] = read, taken
		}
	}
}

package relay

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"
	"time"
)

// records is an owner that follows a stream of records, each a length of four
// bytes and a payload, and does something to those with a special length.
type records struct {
	header  []byte
	left    uint64
	drop    bool
	skipped int // bytes it was not shown
	wait    time.Duration
}

// What the length of a record means, modulo 16.
const (
	toInsert = 11 // "!" after the header
	toDrop   = 12 // the payload
	toPause  = 13
	actions  = 16
)

func (o *records) inspect(p []byte) Verdict {
	var v Verdict
	for v.Pass < len(p) {
		rest := p[v.Pass:]
		if o.left > 0 {
			n := min(o.left, uint64(len(rest)))
			if o.drop && v.Pass > 0 {
				return v
			}
			o.left -= n
			if o.drop {
				return Verdict{Drop: int(n)}
			}
			v.Pass += int(n)
			continue
		}
		n := min(4-len(o.header), len(rest))
		v.Pass += n
		if o.header = append(o.header, rest[:n]...); len(o.header) < 4 {
			return v
		}
		length := binary.BigEndian.Uint32(o.header)
		o.header, o.left, o.drop = o.header[:0], uint64(length), length%actions == toDrop
		switch length % actions {
		case toInsert:
			v.Insert, v.Ahead = []byte("!"), o.left
			return v
		case toPause:
			v.Wait, v.Ahead = max(o.wait, time.Millisecond), o.left
			return v
		}
	}
	if !o.drop {
		v.Ahead = o.left
	}
	return v
}

func (o *records) skip(n int) {
	o.left -= uint64(n)
	o.skipped += n
}

// makeRecords returns a stream of records, and what has to become of it.
func makeRecords(random *rand.Rand, size int) (sent, want []byte) {
	for len(sent) < size {
		n := random.IntN(200 << 10)
		if random.IntN(4) == 0 {
			n = random.IntN(100)
		}
		if n%actions >= toInsert && random.IntN(3) > 0 {
			n -= n % actions
		}
		record := binary.BigEndian.AppendUint32(nil, uint32(n))
		record = append(record, message(n)...)
		sent = append(sent, record...)
		switch n % actions {
		case toInsert:
			want = append(append(want, record[:4]...), '!')
			want = append(want, record[4:]...)
		case toDrop:
			want = append(want, record[:4]...)
		default:
			want = append(want, record...)
		}
	}
	return sent, want
}

// splices tells whether a relay passes on bytes without showing them.
var splices = func(Relay) bool { return false }

func TestLongRecordsAreFollowed(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		var owner records
		w.inspect = func(d Direction, p []byte) Verdict {
			if d == w.d {
				return owner.inspect(p)
			}
			return Verdict{Pass: len(p)}
		}
		w.skip = func(_ Direction, n int) { owner.skip(n) }
		w.start()
		random := rand.New(rand.NewPCG(1, uint64(w.d)))
		sent, want := makeRecords(random, 24<<20)
		size := uint64(len(sent))
		go func() {
			for len(sent) > 0 {
				n := min(len(sent), 1+random.IntN(2<<20))
				if _, err := w.from.Write(sent[:n]); err != nil {
					return // which the receiver tells
				}
				sent = sent[n:]
			}
			_ = socket{w.from.Conn}.CloseWrite()
		}()
		_ = w.to.SetReadDeadline(time.Now().Add(patience))
		got := readWithPauses(t, w.to)
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, want %d; they differ from %d on", len(got), len(want), difference(got, want))
		}
		w.to.closeWrite()
		w.waitDone()
		w.expectAllTaken(w.d, size)
		// How many depends on how fast the sender is.
		if splices(w.relay) && owner.skipped == 0 {
			t.Error("all bytes were shown")
		}
	})
}

// readWithPauses reads until the end, and lets the sender fill all buffers now
// and then.
func readWithPauses(t *testing.T, from io.Reader) []byte {
	t.Helper()
	var all bytes.Buffer
	for range 20 {
		if _, err := io.CopyN(&all, from, 1<<20); err != nil {
			t.Fatalf("reading after %d bytes: %v", all.Len(), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := io.Copy(&all, from); err != nil {
		t.Fatalf("reading after %d bytes: %v", all.Len(), err)
	}
	return all.Bytes()
}

func difference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

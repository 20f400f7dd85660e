package relay

import (
	"runtime"
	"testing"
)

func TestRelayPausesOnlyTheStalledDirection(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		const size = 8 << 20
		w.smallBuffers()
		w.start()
		sent := w.from.pour(size)
		w.waitStalled()
		// What a relay holds of a direction is one buffer.
		if read, taken := w.relay.Counts(w.d); read-taken > 64<<10 {
			t.Errorf("%d bytes are held, want at most one buffer of 64 KiB", read-taken)
		}
		for range 10 {
			w.to.send("hello")
			w.from.expect("hello")
		}
		if want, got := <-w.to.gather(size), <-sent; got != want {
			t.Errorf("checksum %#x, want %#x", got, want)
		}
	})
}

func TestRelayDeliversWhatWasStalledBeforeTheEnd(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		const size = 4 << 20
		w.smallBuffers()
		w.start()
		sent := w.from.pour(size)
		w.waitStalled()
		got := w.to.gather(size)
		if want, got := <-sent, <-got; got != want {
			t.Errorf("checksum %#x, want %#x", got, want)
		}
		w.from.closeWrite()
		w.to.expectEnd()
	})
}

func TestWakeOfAStalledDirectionInsertsInOrder(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		const size = 4 << 20
		w.smallBuffers()
		woken := make(chan int, 1) // how many bytes were before the insertion
		seen := 0
		w.inspect = func(d Direction, p []byte) Verdict {
			if d != w.d || len(p) > 0 {
				if d == w.d {
					seen += len(p)
				}
				return Verdict{Pass: len(p)}
			}
			select {
			case woken <- seen:
				return Verdict{Insert: []byte("inserted")}
			default: // once is enough
				return Verdict{}
			}
		}
		w.start()
		all := message(size)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			w.from.send(all)
		}()
		w.waitStalled()
		before := runtime.NumGoroutine()
		for range 1000 {
			w.relay.Wake(w.d)
		}
		if more := runtime.NumGoroutine() - before; more > 100 { // others are tested meanwhile
			t.Errorf("%d goroutines wait for the stalled direction", more)
		}
		if len(woken) > 0 {
			t.Error("a busy direction was woken")
		}
		got := w.to.read(size + len("inserted"))
		n := <-woken
		if got != all[:n]+"inserted"+all[n:] {
			t.Errorf("what was inserted is not after the %d bytes shown before", n)
		}
		<-sent
	})
}

// backlogged is a connection that knows its backlog.
type backlogged struct {
	socket

	bytes int
}

func (b backlogged) Backlog() int { return b.bytes }

func TestBacklogIsThatOfTheDestination(t *testing.T) {
	eachWay(t, []string{"tcp"}, func(t *testing.T, w way) {
		for i, bytes := range []int{1, 2} { // of client, of upstream
			w.sides[i].Conn = backlogged{socket{w.conns[i]}, bytes}
		}
		w.start()
		want := 2
		if w.d == UpstreamToClient {
			want = 1
		}
		if got := w.relay.Backlog(w.d); got != want {
			t.Errorf("the backlog is %d, want %d", got, want)
		}
	})
	everywhere(t, []string{"tcp"}, func(t *testing.T, r *rig) {
		r.start()
		if got := r.relay.Backlog(ClientToUpstream); got != 0 {
			t.Errorf("a backlog of %d of a connection that does not know", got)
		}
	})
}

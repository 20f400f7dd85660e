package relay

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// isReset tells whether err is what the system says when the peer has reset
// the connection, or has closed it while something was sent to it.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func TestRelayReportsAReset(t *testing.T) {
	eachWay(t, resettable, func(t *testing.T, w way) {
		w.onEnded = func(Direction, End) { w.abort() }
		w.start()
		w.from.expectEcho(w.to, "hello")
		w.from.reset()
		if end := w.waitEnded(w.d); !isReset(end.Err) || end.Writing {
			t.Errorf("the direction ended with %+v, want a reset while reading", end)
		}
		w.waitDone()
		if end := w.waitEnded(w.d.Opposite()); !errors.Is(end.Err, net.ErrClosed) {
			t.Errorf("the aborted direction ended with %+v, want %v", end, net.ErrClosed)
		}
	})
}

func TestRelayTellsTheOtherPeerOfAReset(t *testing.T) {
	eachWay(t, resettable, func(t *testing.T, w way) {
		w.start()
		w.from.send("the last words")
		w.to.expect("the last words")
		w.from.reset()
		w.to.expectEnd()
		w.to.closeWrite()
		w.waitDone()
	})
}

func TestRelayGoesOnInTheOtherDirectionUntilItsOwnerEndsIt(t *testing.T) {
	eachWay(t, resettable, func(t *testing.T, w way) {
		w.start()
		w.from.reset()
		w.waitEnded(w.d)
		// Nobody takes this any more.
		w.to.send("lost")
		if end := w.waitEnded(w.d.Opposite()); !isReset(end.Err) || !end.Writing {
			t.Errorf("the other direction ended with %+v, want a reset while writing", end)
		}
	})
}

func TestRelayReportsAResetDuringTransfer(t *testing.T) {
	eachWay(t, resettable, func(t *testing.T, w way) {
		w.onEnded = func(Direction, End) { w.abort() }
		w.start()
		poured := w.keepPouring()
		w.to.expect(message(100_000))
		w.to.reset()
		// The writer may see it first, or the reader of the other direction.
		w.waitDone()
		end := w.waitEnded(w.d)
		if opposite := w.waitEnded(w.d.Opposite()); !isReset(end.Err) && !isReset(opposite.Err) {
			t.Errorf("the directions ended with %+v and %+v, want a reset", end, opposite)
		}
		<-poured
	})
}

func TestRelayReportsAPeerThatClosesWithoutReading(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.smallBuffers()
		w.onEnded = func(_ Direction, end End) {
			if end.Err != nil {
				w.abort()
			}
		}
		w.start()
		poured := w.keepPouring()
		w.waitStalled()
		_ = raw(w.to.Conn).Close()
		w.waitDone()
		// Some kinds of connection first tell the end of the stream.
		if end := w.waitEnded(w.d); !isReset(end.Err) {
			if opposite := w.waitEnded(w.d.Opposite()); !isReset(opposite.Err) {
				t.Errorf("the directions ended with %+v and %+v, want a reset", end, opposite)
			}
		}
		<-poured
	})
}

func TestRelayReportsGarbageInTLS(t *testing.T) {
	eachWay(t, []string{"tls"}, func(t *testing.T, w way) {
		w.onEnded = func(Direction, End) { w.abort() }
		w.start()
		if _, err := raw(w.from.Conn).Write([]byte("this is not TLS at all")); err != nil {
			t.Fatal(err)
		}
		if end := w.waitEnded(w.d); end.Err == nil || end.Writing || isReset(end.Err) {
			t.Errorf("the direction ended with %+v, want an error of TLS while reading", end)
		}
		w.waitDone()
	})
}

func TestAbortEndsAnIdleRelay(t *testing.T) {
	everywhere(t, allKinds, func(t *testing.T, r *rig) {
		r.start()
		r.client.expectEcho(r.upstream, "hello")
		r.abortInTime()
		for d := range Direction(2) {
			if end := r.waitEnded(d); !errors.Is(end.Err, net.ErrClosed) {
				t.Errorf("direction %d ended with %+v, want %v", d, end, net.ErrClosed)
			}
		}
	})
}

func TestAbortDoesNotWaitForPeersThatDoNotRead(t *testing.T) {
	everywhere(t, allKinds, func(t *testing.T, r *rig) {
		r.smallBuffers()
		r.start()
		var poured []<-chan struct{}
		for d := range Direction(2) {
			w := r.way(d)
			poured = append(poured, w.keepPouring())
			w.waitStalled()
		}
		r.abortInTime()
		for _, done := range poured {
			<-done
		}
	})
}

func TestAbortMayBeRepeated(t *testing.T) {
	everywhere(t, allKinds, func(t *testing.T, r *rig) {
		r.onEnded = func(Direction, End) { r.abort() }
		r.start()
		for range 3 {
			r.relay.Abort()
		}
		r.waitDone()
		r.relay.Abort()
	})
}

// abort ends the relay from within a hook.
func (r *rig) abort() {
	r.begun.Lock()
	defer r.begun.Unlock()
	r.relay.Abort()
}

// abortInTime checks that Abort does not wait for anyone. A TLS connection that
// is closed in the regular way waits for five seconds.
func (r *rig) abortInTime() {
	r.tb.Helper()
	const limit = 4 * time.Second
	began := time.Now()
	r.relay.Abort()
	r.waitDone()
	if took := time.Since(began); took > limit {
		r.tb.Errorf("the end took %v, want less than %v", took, limit)
	}
}

// keepPouring sends, until that fails.
func (w way) keepPouring() <-chan struct{} {
	done := make(chan struct{})
	block := []byte(message(1 << 20))
	go func() {
		defer close(done)
		for {
			if _, err := w.from.Write(block); err != nil {
				return
			}
		}
	}()
	return done
}

// waitStalled waits until the direction makes no progress any more.
func (w way) waitStalled() {
	w.tb.Helper()
	const enough = 100 // polls
	same, lastRead, lastTaken := 0, uint64(0), uint64(0)
	eventually(w.tb, "the direction stalls", func() bool {
		read, taken := w.relay.Counts(w.d)
		if read == taken || read != lastRead || taken != lastTaken {
			same, lastRead, lastTaken = 0, read, taken
			return false
		}
		same++
		return same >= enough
	})
}

package relay

import (
	"testing"
	"time"
)

// pausing makes a direction pause, for longer than any test takes, after the
// first byte that it is shown. Wake gets a "!".
func (w way) pausing() {
	w.inspect = func(d Direction, p []byte) Verdict {
		switch {
		case d != w.d:
			return Verdict{Pass: len(p)}
		case len(p) == 0:
			return Verdict{Insert: []byte("!")}
		}
		return Verdict{Pass: 1, Wait: time.Hour}
	}
}

func TestPausedDirectionIsNotRead(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.pausing()
		w.start()
		w.from.send("abc")
		w.to.expect("a")
		w.from.send("def")
		w.to.send("the other way")
		w.from.expect("the other way")
		w.waitTaken(w.d, 1)
		if read, taken := w.relay.Counts(w.d); read != 1 || taken != 1 {
			t.Errorf("%d bytes read and %d taken: what waits looks like a write that is stuck", read, taken)
		}
	})
}

func TestWakeInsertsIntoAPausedDirection(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.pausing()
		w.start()
		w.from.send("abc")
		w.to.expect("a")
		w.relay.Wake(w.d)
		w.to.expect("!")
	})
}

func TestWakeDoesNotChangeAPause(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		paused := make(chan struct{})
		first := true
		w.inspect = func(_ Direction, p []byte) Verdict {
			switch {
			case len(p) == 0:
				return Verdict{Insert: []byte("!"), Wait: time.Hour}
			case first:
				first = false
				defer close(paused)
				return Verdict{Wait: 20 * time.Millisecond}
			}
			return Verdict{Pass: len(p)}
		}
		w.start()
		w.from.send("abc")
		<-paused
		w.relay.Wake(w.d)
		// The pause may be over before.
		if got := w.to.read(len("!abc")); got != "!abc" && got != "abc!" {
			t.Errorf("got %q", got)
		}
	})
}

func TestPausedDirectionCanBeShut(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.inspect = func(_ Direction, p []byte) Verdict {
			if len(p) == 0 {
				return Verdict{Shut: true}
			}
			return Verdict{Pass: 1, Wait: time.Hour}
		}
		w.start()
		w.from.send("abc")
		w.to.expect("a")
		w.relay.Wake(w.d)
		w.to.expectEnd()
	})
}

// What its source sends would make the system reset the connection otherwise.
func TestPausedDirectionThatIsShutIsReadToItsEnd(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.inspect = func(d Direction, p []byte) Verdict {
			switch {
			case d != w.d:
				return Verdict{Pass: len(p)}
			case len(p) == 0:
				return Verdict{Shut: true}
			}
			return Verdict{Pass: 1, Wait: time.Hour}
		}
		w.start()
		w.from.send("abc")
		w.to.expect("a")
		w.from.send("def")
		w.relay.Wake(w.d)
		w.to.expectEnd()
		w.waitTaken(w.d, uint64(len("abcdef")))
		w.from.closeWrite()
		w.to.closeWrite()
		w.waitDone()
	})
}

func TestPausedDirectionThatHasFailedIsReadToItsEnd(t *testing.T) {
	eachWay(t, resettable, func(t *testing.T, w way) {
		w.pausing()
		w.start()
		w.from.send("abc")
		w.to.expect("a")
		w.to.reset()
		w.waitEnded(w.d.Opposite())
		w.relay.Wake(w.d) // whose insertion fails
		w.waitEnded(w.d)
		w.from.send("def")
		w.from.closeWrite()
		w.waitDone()
	})
}

func TestAbortEndsAPause(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.pausing()
		w.start()
		w.from.send("abc")
		w.to.expect("a")
		w.relay.Abort()
		w.waitDone()
	})
}

func TestPauseIsNotOutlivedByAFailure(t *testing.T) {
	eachWay(t, resettable, func(t *testing.T, w way) {
		w.pausing()
		w.start()
		w.from.send("abc")
		w.to.expect("a")
		w.to.reset()
		w.waitEnded(w.d.Opposite())
		w.relay.Wake(w.d) // whose insertion fails
		if end := w.waitEnded(w.d); !end.Writing {
			t.Errorf("the direction ended with %+v, want a failed write", end)
		}
		w.relay.Abort()
		w.waitDone()
	})
}

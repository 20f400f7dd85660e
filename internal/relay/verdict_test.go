package relay

import (
	"sync/atomic"
	"testing"
	"time"
)

// step is one call of Inspect: what it has to be shown and what it answers.
type step struct {
	shown   string
	verdict Verdict
}

func TestRelayObeysVerdicts(t *testing.T) {
	tests := map[string]struct {
		steps []step
		want  string
		shut  bool
	}{
		"pass": {
			steps: []step{{"abcdefgh", Verdict{Pass: 8}}},
			want:  "abcdefgh",
		},
		"drop": {
			steps: []step{{"abcdefgh", Verdict{Drop: 8}}},
		},
		"insert after": {
			steps: []step{{"abcdefgh", Verdict{Pass: 8, Insert: []byte("XY")}}},
			want:  "abcdefghXY",
		},
		"insert in the middle": {
			steps: []step{
				{"abcdefgh", Verdict{Pass: 3, Insert: []byte("X")}},
				{"defgh", Verdict{Pass: 5}},
			},
			want: "abcXdefgh",
		},
		"insert instead": {
			steps: []step{{"abcdefgh", Verdict{Insert: []byte("X"), Drop: 8}}},
			want:  "X",
		},
		"insert before": {
			steps: []step{
				{"abcdefgh", Verdict{Insert: []byte("X"), Drop: 1}},
				{"bcdefgh", Verdict{Pass: 7}},
			},
			want: "Xbcdefgh",
		},
		"pass, insert and drop": {
			steps: []step{
				{"abcdefgh", Verdict{Pass: 2, Insert: []byte("X"), Drop: 2}},
				{"efgh", Verdict{Pass: 1, Drop: 2}},
				{"h", Verdict{Pass: 1}},
			},
			want: "abXeh",
		},
		"shut after": {
			steps: []step{{"abcdefgh", Verdict{Pass: 8, Shut: true}}},
			want:  "abcdefgh",
			shut:  true,
		},
		"shut in the middle": {
			steps: []step{{"abcdefgh", Verdict{Pass: 3, Shut: true}}},
			want:  "abc",
			shut:  true,
		},
		"shut after an insertion": {
			steps: []step{
				{"abcdefgh", Verdict{Pass: 1}},
				{"bcdefgh", Verdict{Pass: 1, Insert: []byte("X"), Drop: 6, Shut: true}},
			},
			want: "abX",
			shut: true,
		},
		"pause, and go on": {
			steps: []step{
				{"abcdefgh", Verdict{Pass: 3, Insert: []byte("X"), Wait: time.Millisecond}},
				{"defgh", Verdict{Wait: time.Millisecond}},
				{"defgh", Verdict{Pass: 5}},
			},
			want: "abcXdefgh",
		},
		"pause after": {
			steps: []step{
				{"abcdefgh", Verdict{Pass: 8, Wait: time.Millisecond}},
				{"", Verdict{Insert: []byte("X")}},
			},
			want: "abcdefghX",
		},
		"shut after a pause": {
			steps: []step{
				{"abcdefgh", Verdict{Pass: 1, Wait: time.Millisecond}},
				{"bcdefgh", Verdict{Pass: 1, Shut: true}},
			},
			want: "ab",
			shut: true,
		},
		"shut at once": {
			steps: []step{{"abcdefgh", Verdict{Shut: true}}},
			shut:  true,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			eachWay(t, allKinds, func(t *testing.T, w way) {
				left := test.steps
				w.inspect = func(d Direction, p []byte) Verdict {
					if d != w.d || len(left) == 0 {
						return Verdict{Pass: len(p)}
					}
					if string(p) != left[0].shown {
						t.Errorf("Inspect is shown %q, want %q", p, left[0].shown)
					}
					v := left[0].verdict
					left = left[1:]
					return v
				}
				w.start()
				w.from.send("abcdefgh")
				w.to.expect(test.want)
				w.waitTaken(w.d, uint64(len("abcdefgh")))
				if test.shut {
					w.to.expectEnd()
				} else {
					w.from.send("|more")
					w.to.expect("|more")
				}
				w.to.send("the other way")
				w.from.expect("the other way")
			})
		})
	}
}

func TestShutDirectionDiscardsUntilTheSourceEnds(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		const size = 4 << 20
		w.inspect = func(d Direction, p []byte) Verdict {
			return Verdict{Pass: len(p), Shut: d == w.d}
		}
		w.start()
		w.from.send("a")
		w.to.expect("a")
		w.to.expectEnd()
		<-w.from.pour(size)
		w.to.send("the other way")
		w.from.expect("the other way")
		w.from.closeWrite()
		w.to.closeWrite()
		w.from.expectEnd()
		w.waitDone()
		if w.hasEnded(w.d) {
			t.Error("the end of a direction that was shut was reported")
		}
		w.expectAllTaken(w.d, size+1)
	})
}

func TestWakeInsertsIntoAnIdleDirection(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.inspect = func(_ Direction, p []byte) Verdict {
			if len(p) == 0 {
				return Verdict{Insert: []byte("inserted")}
			}
			return Verdict{Pass: len(p)}
		}
		w.start()
		w.relay.Wake(w.d)
		w.to.expect("inserted")
		w.from.expectEcho(w.to, "hello")
		w.relay.Wake(w.d)
		w.to.expect("inserted")
		// What is inserted was neither read nor taken from the source.
		w.from.closeWrite()
		w.to.closeWrite()
		w.waitDone()
		w.expectAllTaken(w.d, uint64(len("hello")))
	})
}

func TestWakeShutsAnIdleDirection(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.inspect = func(_ Direction, p []byte) Verdict {
			if len(p) == 0 {
				return Verdict{Insert: []byte("bye"), Shut: true}
			}
			return Verdict{Pass: len(p)}
		}
		w.start()
		w.relay.Wake(w.d)
		w.to.expect("bye")
		w.to.expectEnd()
		w.relay.Wake(w.d)
		w.from.send("discarded")
		w.to.send("the other way")
		w.from.expect("the other way")
	})
}

func TestWakeAfterTheEndIsHarmless(t *testing.T) {
	everywhere(t, allKinds, func(t *testing.T, r *rig) {
		var asked atomic.Int32
		r.inspect = func(_ Direction, p []byte) Verdict {
			if len(p) == 0 {
				asked.Add(1)
			}
			return Verdict{Pass: len(p)}
		}
		r.start()
		r.client.closeWrite()
		r.waitEnded(ClientToUpstream)
		r.relay.Wake(ClientToUpstream)
		r.upstream.closeWrite()
		r.waitDone()
		for d := range Direction(2) {
			r.relay.Wake(d)
		}
		r.relay.Abort()
		if n := asked.Load(); n > 0 {
			t.Errorf("Inspect was called %d times for directions that had ended", n)
		}
	})
}

func TestHooksMayWakeAndAbort(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.inspect = func(d Direction, p []byte) Verdict {
			if len(p) == 0 {
				return Verdict{Insert: []byte("bye"), Shut: true}
			}
			w.begun.Lock()
			defer w.begun.Unlock()
			w.relay.Wake(d)
			w.relay.Wake(d.Opposite())
			return Verdict{Pass: len(p)}
		}
		w.start()
		w.from.send("hello")
		w.to.expect("hellobye")
		w.to.expectEnd()
		w.from.expect("bye")
		w.from.expectEnd()
	})
}

func TestRelayReportsAnInsertionThatCannotBeWritten(t *testing.T) {
	eachWay(t, resettable, func(t *testing.T, w way) {
		w.inspect = func(Direction, []byte) Verdict { return Verdict{Insert: []byte("inserted")} }
		w.start()
		w.to.reset()
		w.waitEnded(w.d.Opposite())
		w.relay.Wake(w.d)
		if end := w.waitEnded(w.d); !isReset(end.Err) || !end.Writing {
			t.Errorf("the direction ended with %+v, want a reset while writing", end)
		}
	})
}

// The owner has decided to end the direction; that the peer does not learn of
// it is nothing it could act upon.
func TestShutThatCannotBePassedOnIsNoFailure(t *testing.T) {
	eachWay(t, resettable, func(t *testing.T, w way) {
		decided := make(chan struct{})
		w.inspect = func(Direction, []byte) Verdict {
			close(decided)
			return Verdict{Shut: true}
		}
		w.start()
		w.to.reset()
		w.waitEnded(w.d.Opposite())
		w.relay.Wake(w.d)
		<-decided
		w.from.closeWrite()
		w.waitDone()
		if w.hasEnded(w.d) {
			t.Errorf("the end of a direction that was shut was reported: %+v", w.waitEnded(w.d))
		}
	})
}

package relay

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"
	"time"
)

// mixedRecords are a long record and then many short ones, which end a bulk transfer
// in the middle of what was spliced, and what has to become of them. Now and then
// one is to be dropped, gets an insertion or a pause.
func mixedRecords(times int) (sent, want []byte) {
	for range times {
		sent = append(binary.BigEndian.AppendUint32(sent, 300_000), repeated[:300_000]...)
		want = append(binary.BigEndian.AppendUint32(want, 300_000), repeated[:300_000]...)
		for i := range 100_000 {
			n := 2
			if i%9_973 == 0 {
				n = toInsert + i%3
			}
			sent = append(binary.BigEndian.AppendUint32(sent, uint32(n)), repeated[i:i+n]...)
			want = binary.BigEndian.AppendUint32(want, uint32(n))
			switch n {
			case toInsert:
				want = append(append(want, '!'), repeated[i:i+n]...)
			case toDrop:
			default:
				want = append(want, repeated[i:i+n]...)
			}
		}
	}
	return sent, want
}

// kept is how much memory a direction has for bytes that its destination has not
// taken.
func (w way) kept() (n int) {
	w.tb.Helper()
	w.look(func(c *course) { n = cap(c.rest) + cap(c.unseen) })
	return n
}

// waiting tells what a direction has that its destination does not take.
func (w way) waiting() (rest, piped bool) {
	w.tb.Helper()
	w.look(func(c *course) { rest, piped = len(c.rest) > 0, c.pipes != nil })
	return rest, piped
}

// look has the poller look at a direction, between its events.
func (w way) look(at func(c *course)) {
	w.tb.Helper()
	w.atPoller(func(r *polled) { at(&r.dirs[w.d]) })
}

// atPoller has the poller do something with a relay, between its events.
func (r *rig) atPoller(do func(r *polled)) {
	r.tb.Helper()
	relay, ok := r.relay.(*polled)
	if !ok {
		r.tb.Fatalf("%T is not the relay of sockets", r.relay)
	}
	done := make(chan struct{})
	relay.send(func() { do(relay); close(done) })
	select {
	case <-done:
	case <-time.After(patience):
		r.tb.Fatal("the poller does not answer")
	}
}

// polledWay is eachWay for relays of TCP sockets.
func polledWay(t *testing.T, test func(t *testing.T, w way)) {
	t.Helper()
	all := openers(t)
	for d, name := range directions {
		t.Run(name, func(t *testing.T) {
			test(t, newRig(t, implementations["polled"], all["tcp"], all["tcp"]).way(Direction(d)))
		})
	}
}

// What comes in a bulk transfer waits in the system for a destination that takes
// nothing or little, whatever the sizes of its frames.
func TestLittleIsKeptForASlowDestination(t *testing.T) {
	polledWay(t, func(t *testing.T, w way) {
		var owner records
		w.inspect = func(d Direction, p []byte) Verdict {
			if d == w.d {
				return owner.inspect(p)
			}
			return Verdict{Pass: len(p)}
		}
		w.skip = func(_ Direction, n int) { owner.skip(n) }
		w.smallBuffers()
		w.start()
		all, want := mixedRecords(amount(10, 5))
		sent := inBackground(func() { w.from.send(string(all)) })
		random := rand.New(rand.NewPCG(2, uint64(w.d)))
		var got bytes.Buffer
		for len(want)-got.Len() > 3<<20 {
			w.waitStalled()
			if n, most := w.kept(), pollBuffer+pollBuffer/4; n > most { // append allots more than it has to
				t.Fatalf("%d bytes are kept, want at most a piece of %d", n, pollBuffer)
			}
			if _, err := io.CopyN(&got, patient(w.to), 1+random.Int64N(400_000)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.CopyN(&got, patient(w.to), int64(len(want)-got.Len())); err != nil {
			t.Fatal(err)
		}
		<-sent
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("the bytes differ from %d on", difference(got.Bytes(), want))
		}
		w.waitTaken(w.d, uint64(len(all)))
		if owner.skipped == 0 {
			t.Error("all bytes were shown")
		}
	})
}

// A pause may begin in the middle of what was spliced. However the direction ends,
// the pipes come back, and what is in them does not look like a write that is stuck.
func TestPausedBulkMayEnd(t *testing.T) {
	for name, end := range map[string]func(w way){
		"abort": func(w way) { w.relay.Abort() },
		"shut": func(w way) {
			w.relay.Wake(w.d)
			w.to.expectEnd()
			w.relay.Abort()
		},
		"reset": func(w way) {
			w.to.reset()
			w.waitEnded(w.d.Opposite())
			w.relay.Abort()
		},
	} {
		t.Run(name, func(t *testing.T) {
			polledWay(t, func(t *testing.T, w way) {
				before := pipesInUse()
				var owner records
				w.inspect = func(d Direction, p []byte) Verdict {
					switch {
					case d == w.d && len(p) == 0:
						return Verdict{Shut: true}
					case d == w.d:
						return owner.inspect(p)
					}
					return Verdict{Pass: len(p)}
				}
				w.skip = func(_ Direction, n int) { owner.skip(n) }
				owner.wait = time.Hour
				w.smallBuffers()
				w.start()
				all := bytes.Repeat(append(binary.BigEndian.AppendUint32(nil, 300_000), repeated[:300_000]...), 20)
				all = append(binary.BigEndian.AppendUint32(all, toPause), repeated[:1<<20]...)
				inBackground(func() { _, _ = w.from.Write(all) }) // of which not all may be taken
				w.waitStalled()
				const passed = 20*300_004 + 4
				if _, err := io.CopyN(io.Discard, patient(w.to), passed); err != nil {
					t.Fatal(err)
				}
				w.waitTaken(w.d, passed)
				end(w)
				w.waitDone()
				eventually(t, "all pipes are back", func() bool { return pipesInUse() == before })
			})
		})
	}
}

package upstream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestQueueIsServedInOrder(t *testing.T) {
	const size = 100
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrowFor(size), "a:1")
		open := s.stand()
		var all []*standing
		for range size {
			all = append(all, s.stand())
		}
		if got := s.WaitingNow(); got != size {
			t.Errorf("%d wait, want %d", got, size)
		}
		tooMany := s.stand()
		tooMany.expect("", ErrQueueFull)
		tooMany.leave()
		for i, one := range all {
			open.leave()
			one.expect("a:1", nil)
			if got, want := s.WaitingNow(), size-1-i; got != want {
				t.Errorf("%d wait after %d was served, want %d", got, i, want)
			}
			open = one
		}
		open.leave()
	})
}

func TestRetryKeepsItsPlaceInTheQueue(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrow, "a:1", "b:1")
		first, second := s.stand(), s.stand()
		retrying, behind, last := s.stand(), s.stand(), s.stand()
		at := first.chosen.Host.Address
		time.Sleep(time.Second)
		first.leave()
		retrying.expect(at, nil)

		// Its dial fails: the place goes to the one behind, and it waits for the
		// other upstream, before the others.
		w.GiveBack(retrying.chosen)
		behind.expect(at, nil)
		retrying.again()
		retrying.expectWaiting("there was no other place")
		if retrying.Waited != time.Second {
			t.Errorf("has waited for %v, want 1s", retrying.Waited)
		}
		other := second.chosen.Host.Address
		second.leave()
		retrying.expect(other, nil)
		last.expectWaiting("who came later was served")
		leave(retrying, behind, last)
	})
}

// Its place is there however many have come meanwhile, for as long as was left.
func TestRetryHasAsMuchTimeAsWasLeft(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrowFor(1), "a:1", "b:1")
		first, second := s.stand(), s.stand()
		retrying := s.stand()
		time.Sleep(40 * time.Second)
		first.leave()
		behind := s.stand()
		w.GiveBack(retrying.chosen) // its dial fails
		last := s.stand()
		began := time.Now()
		retrying.again()
		<-retrying.done
		retrying.expect("", ErrQueueTimeout)
		if got, want := time.Since(began), 20*time.Second; got != want {
			t.Errorf("waited for another %v, want %v", got, want)
		}
		leave(retrying, second, behind, last)
	})
}

func TestWhoCannotUseAPlaceLetsOthersHaveIt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrow, "a:1", "b:1")
		first, second := s.stand(), s.stand()
		retrying, behind := s.stand(), s.stand()
		at, other := first.chosen.Host.Address, second.chosen.Host.Address
		first.leave()
		w.GiveBack(retrying.chosen)
		behind.expect(at, nil)
		retrying.again() // waits for the other one
		behind.leave()   // which it has tried
		retrying.expectWaiting("the same upstream is tried again")
		arriving := s.stand()
		arriving.expect(at, nil)
		second.leave()
		retrying.expect(other, nil)
		leave(retrying, arriving)
	})
}

func TestArrivalsQueueBehind(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrow, "a:1")
		first, waiting := s.stand(), s.stand()
		first.leave()
		waiting.expect("a:1", nil)
		arriving := s.stand()
		arriving.expectWaiting("an arrival was served although there is no place")
		waiting.leave()
		arriving.expect("a:1", nil)
		arriving.leave()
	})
}

// Handlers that share an upstream must not starve each other.
func TestQueuesOfHandlersAreServedInOneOrder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, other := w.load(narrow, "a:1"), w.load(narrow, "a:1")
		open := one.stand()
		first, second, third := one.stand(), other.stand(), one.stand()
		open.leave()
		first.expect("a:1", nil)
		first.leave()
		second.expect("a:1", nil)
		third.expectWaiting("who came later was served first")
		second.leave()
		third.expect("a:1", nil)
		third.leave()
	})
}

// A source that is asked in handshakes may find something for one of them only.
func TestWhoHasUpstreamsOfItsOwnDoesNotStandBehindOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrow, "a:1")
		s.Grow(1, true)
		open, waiting := s.stand(), s.stand()
		c, err := s.Candidates(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Add(NewEndpoint(&Server{Weight: 1}, Address{HostPort: "own:1"}), new(Provenance), "")
		own := &standing{w: w, Candidates: c}
		own.again()
		own.expect("own:1", nil)
		own.leave()
		waiting.expectWaiting("who has nothing of its own was served")
		leave(waiting, open)
	})
}

// A reload makes another queue for the same upstreams.
func TestOldAndNewQueueOfAClientAreOne(t *testing.T) {
	inWorld(t, func(_ *testing.T, w *world) {
		before, after := w.load(narrow, "a:1"), w.load(narrow, "a:1")
		open := before.stand()
		all := []*standing{before.stand(), before.stand(), before.stand(), after.stand(), after.stand()}
		other := after.standAs(func(c *Candidates) { c.Client = client(1) })
		open.leave()
		for i, one := range []*standing{all[0], all[1], other, all[2], all[3], all[4]} {
			if one.waits() {
				w.t.Fatalf("number %d was not served", i)
			}
			one.leave()
		}
	})
}

func TestQueueTimeout(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrow, "a:1")
		open := s.stand()
		began := time.Now()
		waiting := s.stand()
		<-waiting.done
		waiting.expect("", ErrQueueTimeout)
		if got := time.Since(began); got != s.Queue.Timeout || waiting.Waited != got {
			t.Errorf("waited %v, and says %v; want %v", got, waiting.Waited, s.Queue.Timeout)
		}
		leave(waiting, open)
	})
}

// What was full when somebody came may not be there any more in the end.
func TestWaitingInVainSaysWhy(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrow, "a:1")
		open, waiting := s.stand(), s.stand()
		w.operate(Drain, "a:1")
		<-waiting.done
		waiting.expect("", ErrNoneLeft)
		leave(waiting, open)
	})
}

func TestQueueIsServedByWhateverMakesPlaces(t *testing.T) {
	for name, makePlace := range map[string]func(w *world, taken, open *standing){
		"a tunnel of another handler ends": func(_ *world, taken, _ *standing) { taken.leave() },
		"an upstream gets ready":           func(w *world, _, _ *standing) { w.operate(Ready, "c:1") },
		"another handshake gives up":       func(_ *world, _, open *standing) { open.leave() },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s, other := w.load(narrow, "a:1", "b:1", "c:1"), w.load(asItIs, "b:1")
				taken := other.stand()
				w.operate(Drain, "c:1")
				open, waiting := s.stand(), s.stand()
				if !waiting.waits() {
					t.Fatalf("does not wait: %+v", waiting.chosen)
				}
				makePlace(w, taken, open)
				if waiting.waits() || waiting.chosen == nil {
					t.Error("was not served")
				}
				leave(waiting, open, taken)
			})
		})
	}
}

func TestNobodyWaitsForWhatCannotCome(t *testing.T) {
	for name, test := range map[string]struct {
		size  int
		state string
	}{
		"a drained upstream": {1000, Drain}, "without a queue": {0, Ready},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(narrowFor(test.size), "a:1")
				open := s.stand()
				w.operate(test.state, "a:1")
				other := s.stand()
				if other.waits() || other.chosen != nil || other.err != nil {
					t.Errorf("got %+v, %v; want nothing at once", other.chosen, other.err)
				}
				leave(other, open)
			})
		})
	}
}

func TestClientThatGoesLeavesTheQueue(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrow, "a:1")
		open, waiting := s.stand(), s.stand()
		waiting.leave()
		if waiting.err == nil || s.WaitingNow() > 0 {
			t.Errorf("got %v, and %d wait; want an error and nobody", waiting.err, s.WaitingNow())
		}
		open.leave()
		if got := s.chooses(); got != "a:1" {
			t.Errorf("chose %q, want the place that is free", got)
		}
	})
}

// Who gives up at the moment in which it is served must not keep the place.
func TestPlaceThatComesTooLateIsPassedOn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrow, "a:1")
		for range 100 {
			open, leaving, behind := s.stand(), s.stand(), s.stand()
			go leaving.cancel()
			go w.GiveBack(open.chosen)
			synctest.Wait()
			<-leaving.done
			if leaving.chosen != nil {
				w.GiveBack(leaving.chosen)
				leaving.chosen = nil
			}
			behind.expect("a:1", nil)
			behind.leave()
			leaving.Close()
			open.cancel()
			open.Close()
		}
	})
}

func TestPlaceThatComesWhenItsClientHasGoneIsPassedOn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(narrow, "a:1")
		open, leaving, behind := s.stand(), s.stand(), s.stand()
		w.mu.Lock() // keeps it from leaving the queue
		leaving.cancel()
		open.chosen.Host.countLocked(-1)
		w.underWay--
		w.releaseLocked(open.chosen.Host)
		w.serveLocked()
		w.mu.Unlock()
		<-leaving.done
		leaving.expect("", context.Canceled)
		behind.expect("a:1", nil)
		open.chosen = nil // has ended
		leave(open, leaving, behind)
	})
}

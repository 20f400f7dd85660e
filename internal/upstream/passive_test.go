package upstream

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// failing are the addresses that passive checks have found failing.
func (w *world) failing() (failing []string) {
	for _, i := range w.List() {
		if i.Failing {
			failing = append(failing, i.Address)
		}
	}
	return failing
}

func (w *world) expectFailing(when string, want ...string) {
	w.t.Helper()
	if got := w.failing(); !slices.Equal(got, want) {
		w.t.Errorf("%s, failing are %v, want %v", when, got, want)
	}
}

func TestWhatFailsIsChosenLast(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(watching, "a:1", "b:1")
		s.AddFixed(&Server{Weight: 1, Backup: true}, Address{HostPort: "backup:1"})
		for range 50 {
			s.fail(0, 2)
			if got := s.chooses(); got != "b:1" {
				t.Fatalf("chose %s, want b:1", got)
			}
		}
		s.fail(1, 2)
		if got := s.chooses(); got != "backup:1" {
			t.Errorf("chose %s, want the backup", got)
		}
		// The last available one is never left out.
		s.fail(2, 2)
		if got := s.chooses(); got != "a:1" && got != "b:1" {
			t.Errorf("chose %s, want one that is no backup", got)
		}
	})
}

func TestFailuresAreForgotten(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(watching, "a:1", "b:1")
		s.fail(0, 1)
		time.Sleep(40 * time.Second)
		s.fail(0, 1)
		w.expectFailing("after two failures in 40s", "a:1")
		time.Sleep(20*time.Second + time.Millisecond)
		synctest.Wait()
		w.expectFailing("when the first is a minute old")
		s.fail(0, 1) // the second still counts
		w.expectFailing("after another one", "a:1")
		time.Sleep(40 * time.Second)
		synctest.Wait()
		w.expectFailing("when the second is a minute old")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := w.Held().Failures; got > 0 {
			t.Errorf("failures of %d addresses are remembered", got)
		}
	})
}

func TestFailuresOutliveAReload(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		before := w.load(watching, "a:1", "b:1")
		before.fail(0, 2)
		after := w.load(watching, "a:1", "b:1")
		before.unload()
		if got := after.chooses(); got != "b:1" {
			t.Errorf("chose %s, want b:1", got)
		}
	})
}

// What an unloaded configuration had found failing must not have the upstream
// start slowly in others, which have used it all the time.
func TestFailuresThatNobodyCountsAnyMoreChangeNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		before := w.load(watching, "a:1", "b:1")
		before.fail(0, 2)
		after := w.load(func(p *Pool) { p.Passive = FailureLimits{Duration: 10 * time.Second, Max: 3} }, "a:1", "b:1")
		failures := before.Fixed[0].Failures
		before.unload()
		w.Failed(failures) // of a handshake that was under way
		if got := failures.countLocked(); got != 0 {
			t.Errorf("%d failures are remembered that nobody counts any more", got)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if joined := after.SlowSince("a:1"); !joined.IsZero() {
			t.Errorf("the upstream has joined at %v", joined)
		}
	})
}

func TestFailuresCountForATransport(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, same := w.load(watching, "a:1"), w.load(watching, "a:1")
		other := w.load(func(p *Pool) { watching(p); p.Transport = "another" }, "a:1")
		limits := w.load(func(p *Pool) { p.Passive = FailureLimits{Duration: time.Minute, Max: 3} }, "a:1")
		off := w.load(asItIs, "a:1")
		failuresOf := func(s *site) *Failures { return s.Fixed[0].Failures }
		if failuresOf(one) != failuresOf(same) {
			t.Error("pools with the same transport do not share what they know")
		}
		if failuresOf(one) == failuresOf(other) {
			t.Error("what fails with one transport counts for another one")
		}
		if failuresOf(one) == failuresOf(limits) {
			t.Error("pools with other limits share what they know")
		}
		if f := failuresOf(off); f != nil {
			t.Errorf("without limits failures are counted: %+v", f)
		}
	})
}

func TestOneFailureTooManyIsToldOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(watching, "a:1")
		for i, want := range []bool{false, true, false, false} {
			if got := w.Failed(s.Fixed[0].Failures); got != want {
				t.Errorf("failure %d is one too many: %t, want %t", i+1, got, want)
			}
		}
	})
}

package upstream

import (
	"testing"
	"testing/synctest"
	"time"
)

const slowStart = 100 * time.Second

const (
	failDuration = 10 * time.Second
	maxFails     = 3
)

func startingSlowly(p *Pool) {
	p.SlowStart, p.Passive = slowStart, FailureLimits{Duration: failDuration, Max: maxFails}
}

// shareOf returns the part of many choices that goes to an address. Its tunnels
// end at once, so that it stays empty, and the others have some.
func (s *site) shareOf(address string) float64 {
	s.w.t.Helper()
	const choices = 5000
	n := 0
	for range choices {
		if s.chooses() == address {
			n++
		}
	}
	return float64(n) / choices
}

// TestShareOfANewcomerGrowsLinearly has an empty upstream join others that have
// tunnels, so that least_conn would send everybody there.
func TestShareOfANewcomerGrowsLinearly(t *testing.T) {
	for name, join := range map[string]func(s *site){
		"an operator makes it ready": func(s *site) {
			s.w.operate(Drain, "new:1")
			time.Sleep(time.Hour)
			s.w.operate(Ready, "new:1")
		},
		"it has recovered": func(s *site) {
			s.fail(2, maxFails)
			time.Sleep(failDuration)
			synctest.Wait()
		},
		"it is found": func(s *site) { s.w.JoinNew(s.Fixed[2:], nil) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(startingSlowly, "a:1", "b:1", "new:1")
				held := []*Host{w.occupy("a:1"), w.occupy("b:1")}
				if got := s.shareOf("new:1"); got != 1 {
					t.Errorf("share of an old one without tunnels is %v, want 1", got)
				}
				join(s)
				for passed := 0; passed <= 100; passed += 10 {
					got, want := s.shareOf("new:1"), float64(passed)/100
					if got < want-0.05 || got > want+0.05 {
						t.Errorf("the share after %d%% of the time is %v, want %v", passed, got, want)
					}
					time.Sleep(slowStart / 10)
				}
				for _, one := range held {
					w.TunnelEnded(one)
				}
			})
		})
	}
}

// Another site reaches the same upstream in a way that fails, by TLS or by a check.
func TestSlowStartIsAPools(t *testing.T) {
	for name, recoverIn := range map[string]func(s *site){
		"failures": func(s *site) {
			s.fail(0, maxFails)
			time.Sleep(failDuration)
			synctest.Wait()
		},
		"a check": func(s *site) {
			s.w.Report(s.Fixed[0].Verdict, "down", 1, 1)
			s.w.Report(s.Fixed[0].Verdict, "", 1, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				one := w.load(startingSlowly, "a:1", "b:1")
				other := w.load(func(p *Pool) {
					startingSlowly(p)
					p.Transport = "another"
					p.Joins = append(p.Joins, func(e *Endpoint) { w.Judge(e, "check") })
					p.Leaves = append(p.Leaves, func(e *Endpoint) { w.Unjudge(e) })
				}, "a:1", "b:1")
				recoverIn(other)
				if other.SlowSince("a:1").IsZero() {
					t.Error("the pool in which it has recovered does not start it slowly")
				}
				if joined := one.SlowSince("a:1"); !joined.IsZero() {
					t.Errorf("a pool in which it has not failed starts it slowly from %v on", joined)
				}
			})
		})
	}
}

func TestWhatHasTunnelsElsewhereIsNoNewcomer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.load(startingSlowly, "busy:1", "idle:1")
		s := w.load(startingSlowly, "busy:1", "idle:1", "fast:1")
		held := []*Host{w.occupy("busy:1"), w.occupy("fast:1")}
		w.JoinNew(s.Fixed, []string{"busy:1", "idle:1"})
		for address, want := range map[string]bool{"busy:1": false, "idle:1": true, "fast:1": true} {
			if got := !s.SlowSince(address).IsZero(); got != want {
				t.Errorf("%s starts slowly: %t, want %t", address, got, want)
			}
		}
		for _, one := range held {
			w.TunnelEnded(one)
		}
	})
}

func TestSlowStartGoesOnAfterAReload(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		old := w.load(startingSlowly, "a:1")
		w.JoinPools(old.Fixed)
		since := old.SlowSince("a:1")
		time.Sleep(time.Second)
		after := w.load(startingSlowly, "a:1")
		w.Inherit(after.Fixed[0], old.Fixed[0])
		old.unload()
		if got := after.SlowSince("a:1"); since.IsZero() || !got.Equal(since) {
			t.Errorf("starts slowly from %v on, want %v", got, since)
		}
	})
}

// A pool that is all new is not slow.
func TestNewcomersAloneAreNotHeldBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(startingSlowly, "a:1", "b:1")
		w.JoinNew(s.Fixed, nil)
		for range 100 {
			if s.chooses() == "" {
				t.Fatal("nothing was chosen")
			}
		}
	})
}

func TestNobodyStartsSlowlyByDefault(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(asItIs, "a:1", "new:1")
		held := w.occupy("a:1")
		w.JoinNew(s.Fixed[1:], nil)
		if got := s.shareOf("new:1"); got != 1 {
			t.Errorf("the share is %v, want 1", got)
		}
		w.TunnelEnded(held)
	})
}

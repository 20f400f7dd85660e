package upstream

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// resetting is a step of a story of resets: tunnels that are opened by so many clients, from
// one on, and what becomes of them.
type resetting struct {
	first, clients int
	reset          bool
	after          time.Duration
	left           bool // by the client, at once
}

func TestResetsTakeClients(t *testing.T) {
	for name, c := range map[string]struct {
		story []resetting
		want  bool
	}{
		"of three":                  {[]resetting{{1, 3, true, 0, false}}, true},
		"of two":                    {[]resetting{{1, 2, true, 0, false}}, false},
		"of one, again and again":   {repeated(resetting{1, 1, true, 0, false}, 20), false},
		"of two, again and again":   {repeated(resetting{1, 2, true, 0, false}, 20), false},
		"of three, who retry":       {[]resetting{{1, 1, true, 0, false}, {1, 1, true, 0, false}, {1, 1, true, 0, false}, {2, 1, true, 0, false}, {2, 1, true, 0, false}, {3, 1, true, 0, false}}, true},
		"out of time":               {repeated(resetting{1, 2, true, failDuration, false}, 5), false},
		"many are kept between":     {[]resetting{{1, 2, true, 0, false}, {10, 20, false, 0, false}, {3, 3, true, 0, false}}, false},
		"many were kept before":     {[]resetting{{10, 200, false, 0, false}, {1, 3, true, 0, false}}, true},
		"as many are kept":          {[]resetting{{1, 1, true, 0, false}, {10, 3, false, 0, false}, {2, 2, true, 0, false}}, true},
		"many have left between":    {[]resetting{{1, 2, true, 0, false}, {10, 20, false, 0, true}, {3, 1, true, 0, false}}, true},
		"one client alone, at once": {repeated(resetting{1, 1, true, time.Second, false}, 5), false},
		"one client alone, for long": {
			append([]resetting{{1, 1, false, failDuration, false}}, repeated(resetting{1, 1, true, time.Second, false}, 3)...), true,
		},
		"one client, but others came": {
			append([]resetting{{1, 1, false, failDuration, false}, {2, 1, false, 0, false}}, repeated(resetting{1, 1, true, time.Second, false}, 5)...), false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(doubting, "a:1", "b:1")
				got := false
				for _, step := range c.story {
					for i := range step.clients {
						s.opens(0, step.first+i)
						if step.reset {
							got = s.w.WasReset(s.Fixed[0].Failures, client(step.first+i)) || got
						}
						if step.left {
							s.w.WasLeft(s.Fixed[0].Failures, client(step.first+i))
						}
					}
					time.Sleep(step.after)
				}
				if got != c.want {
					t.Errorf("doubtful: %t, want %t", got, c.want)
				}
			})
		})
	}
}

func repeated(step resetting, times int) []resetting { return slices.Repeat([]resetting{step}, times) }

// Where many tunnels are opened at once, some are not reset yet, and look as if they were
// kept.
func TestResetsOfManyAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting, "a:1", "b:1")
		isNew := 0
		for i := range 80 {
			time.Sleep(5 * time.Millisecond)
			s.opens(0, i)
			time.AfterFunc(50*time.Millisecond, func() {
				if w.WasReset(s.Fixed[0].Failures, client(i)) {
					isNew++
				}
			})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		w.expectDoubtful("after many resets", "a:1")
		if isNew != 1 {
			t.Errorf("it has become doubtful %d times", isNew)
		}
	})
}

// A tunnel that is opened proves nothing where it was resets that made an upstream doubtful, so
// each trial costs somebody a tunnel, and there are fewer from one to the next.
func TestADoubtByResetsEndsWhenATunnelIsKept(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(startingSlowly, "a:1", "b:1")
		f := s.Fixed[0].Failures
		for i := range maxFails {
			s.opens(0, i)
			w.WasReset(f, client(i))
		}
		pause := failDuration
		for range mostDoublings + 2 {
			w.expectDoubtful("after resets", "a:1")
			time.Sleep(pause - time.Nanosecond)
			s.expectNewcomers("before the time", "b:1")
			time.Sleep(time.Nanosecond)
			trial := s.picks()
			if !trial.Trial {
				t.Fatalf("chose %s, want a trial", trial.Host.Address)
			}
			w.Answered(trial, client(7), time.Millisecond)
			s.end(trial)
			s.expectNewcomers("before the tunnel is kept", "b:1")
			w.WasReset(f, client(8)) // who has to stay, and may do that for ever
			time.Sleep(AtOnce / 2)
			if w.WasReset(f, client(7)) {
				t.Error("it was doubtful before")
			}
			pause = min(2*pause, failDuration<<mostDoublings)
		}
		time.Sleep(pause)
		s.opens(0, 7)
		w.WasReset(f, client(8))
		w.expectDoubtful("before the tunnel is kept", "a:1")
		time.Sleep(AtOnce)
		s.opens(0, 9)
		w.expectDoubtful("after a tunnel that was kept")
		if since := s.SlowSince("a:1"); !since.Equal(time.Now()) {
			t.Errorf("starts slowly from %v on, want now", since)
		}
	})
}

// Nothing of all that may be left, whatever there is a lot of.
func TestResetsAreBounded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting, "a:1")
		f := s.Fixed[0].Failures
		for i := range 10 * mostResets {
			for range 3 {
				s.opens(0, 5000+i)
			}
			w.WasReset(f, client(i))
		}
		if got := len(f.doubt.resets.recent); got > mostResets {
			t.Errorf("%d resets are remembered", got)
		}
		w.expectDoubtful(fmt.Sprintf("with %d kept tunnels", f.doubt.resets.kept))
	})
}

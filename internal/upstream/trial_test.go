package upstream

import (
	"slices"
	"testing"
	"time"
)

// One that fails at once must not get all who come while the others are full. But one of
// them finds out whether it still fails, as the others may be full for days.
func TestADoubtfulOneIsPassedByWhileOthersAreFull(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(func(p *Pool) { doubting(p); narrow(p) }, "a:1", "b:1")
		s.convict(0)
		there := s.stand()
		there.expect("b:1", nil)
		waits := []*standing{s.stand(), s.stand()}
		waits[0].expectWaiting("while the other one is full")
		time.Sleep(failDuration)
		waits = append(waits, s.stand())
		waits[0].expect("a:1", nil)
		if !waits[0].chosen.Trial {
			t.Error("it is no trial")
		}
		waits[1].expectWaiting("while one tries")
		// Who tries is refused, and there is nobody to ask.
		w.TrialOver(waits[0].chosen)
		if !w.Unanswered(waits[0].chosen.Endpoint.Failures) {
			t.Error("nobody is asked after a trial")
		}
		if got := waits[0].Witness(waits[0].chosen, true); got != nil {
			t.Errorf("asks %s, which is full", got.Host.Address)
		}
		waits[0].leave()
		waits[1].expectWaiting("after a trial that has shown nothing")
		time.Sleep(failDuration)
		waits = append(waits, s.stand())
		waits[1].expect("a:1", nil)
		leave(append(waits[1:], there)...)
	})
}

func TestOneAtATimeTriesADoubtfulOne(t *testing.T) {
	for name, c := range map[string]struct {
		end func(s *site, trial *Choice)
		// over tells that the doubt is, and after how long there is another trial if not.
		over  bool
		after time.Duration
	}{
		"it opens a tunnel": {func(s *site, trial *Choice) { s.w.Answered(trial, client(1), time.Millisecond) }, true, 0},
		"it fails again":    {func(s *site, _ *Choice) { s.unanswered(0, 1); s.convict(0) }, false, failDuration},
		"others fail alike": {func(s *site, _ *Choice) { s.unanswered(0, 1); s.w.Acquit(s.Fixed[0].Failures) }, false, 0},
		"the client leaves": {func(*site, *Choice) {}, false, 0},
		"it is late":        {func(s *site, trial *Choice) { trial.Overdue = true; s.w.Answered(trial, client(1), time.Minute) }, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(doubting, "a:1", "b:1")
				s.convict(0)
				time.Sleep(failDuration - time.Nanosecond)
				s.expectNewcomers("before the time", "b:1")
				time.Sleep(time.Nanosecond)
				trial := s.picks()
				if trial.Host.Address != "a:1" || !trial.Trial {
					t.Fatalf("chose %s, want a trial of a:1", trial.Host.Address)
				}
				time.Sleep(trial.Late - time.Nanosecond)
				s.expectNewcomers("while it is tried", "b:1")
				s.w.TrialOver(trial)
				c.end(s, trial)
				s.w.GiveBack(trial)
				if c.over {
					w.expectDoubtful("after the trial")
					s.expectNewcomers("after the trial", "a:1", "b:1")
					return
				}
				w.expectDoubtful("after the trial", "a:1")
				if c.after > 0 {
					time.Sleep(c.after - time.Nanosecond)
					s.expectNewcomers("before the next one", "b:1")
					time.Sleep(time.Nanosecond)
				}
				again := s.picks()
				if again.Host.Address != "a:1" || !again.Trial {
					t.Errorf("chose %s, want another trial of a:1", again.Host.Address)
				}
				s.end(again)
			})
		})
	}
}

// Whoever is hostile may have any upstream take long.
func TestATrialThatIsLateIsNotWaitedFor(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting, "a:1", "b:1")
		s.convict(0)
		time.Sleep(failDuration)
		slow := s.picks()
		time.Sleep(slow.Late)
		trial := s.picks()
		if !slow.Trial || !trial.Trial {
			t.Errorf("there was a trial: %t, and another one: %t", slow.Trial, trial.Trial)
		}
		s.end(slow)
		s.end(trial)
	})
}

// Clients that have to stay where they are may fail there all the time, whatever others do.
func TestFailuresOfWhoStaysDoNotPutATrialOff(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting, "a:1", "b:1")
		s.convict(0)
		for range 9 {
			time.Sleep(failDuration / 10)
			s.unanswered(0, 1)
			if w.Convict(s.Fixed[0].Failures) {
				t.Error("it was doubtful already")
			}
		}
		time.Sleep(failDuration / 10)
		trial := s.picks()
		if !trial.Trial {
			t.Errorf("chose %s, want a trial", trial.Host.Address)
		}
		s.end(trial)
	})
}

func TestASuccessEndsADoubtOnlyAfterTheTime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting, "a:1", "b:1")
		s.convict(0)
		time.Sleep(failDuration - time.Nanosecond)
		s.opens(0, 1)
		w.expectDoubtful("after a success before the time", "a:1")
		time.Sleep(time.Nanosecond)
		s.opens(0, 1)
		w.expectDoubtful("after a success in time")
		// One that fails now and then must not cost as many clients each time.
		for range waryFor * maxFails {
			if got := s.unanswered(0, 1); !got[0] {
				t.Error("nobody is asked soon after a doubt")
			}
			s.opens(0, 1)
		}
		for range waryFor*maxFails - 1 {
			s.opens(0, 1)
		}
		if got := s.unanswered(0, maxFails); !slices.Equal(got, []bool{false, false, true}) {
			t.Errorf("after many successes, others are asked after %v", got)
		}
	})
}

func TestSlowStartBeginsOnceAtTheEndOfADoubt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(startingSlowly, "a:1", "b:1")
		s.convict(0)
		time.Sleep(failDuration)
		trial := s.picks()
		s.unanswered(0, 1)
		w.TrialOver(trial)
		s.convict(0)
		w.GiveBack(trial)
		if since := s.SlowSince("a:1"); !since.IsZero() {
			t.Errorf("started slowly at %v, while it is doubtful", since)
		}
		time.Sleep(failDuration)
		s.opens(0, 1)
		ended := time.Now()
		if since := s.SlowSince("a:1"); !since.Equal(ended) {
			t.Errorf("started slowly at %v, want %v", since, ended)
		}
		time.Sleep(time.Second)
		s.opens(0, 1)
		if since := s.SlowSince("a:1"); !since.Equal(ended) {
			t.Errorf("started slowly again, at %v", since)
		}
	})
}

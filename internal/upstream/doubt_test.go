package upstream

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// doubting has upstreams be doubtful by the third failure, and tried again after 10 seconds.
func doubting(p *Pool) { p.Passive = FailureLimits{Duration: failDuration, Max: maxFails} }

// client is the network of the i-th client.
func client(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
}

// candidates are those of another handshake.
func (s *site) candidates() *Candidates {
	s.w.t.Helper()
	c, err := s.Candidates(nil)
	if err != nil {
		s.w.t.Fatal(err)
	}
	return c
}

// convict has the i-th upstream be doubtful.
func (s *site) convict(i int) { s.w.Convict(s.Fixed[i].Failures) }

// picks has another handshake choose an upstream. What it returns has to be ended.
func (s *site) picks() *Choice {
	s.w.t.Helper()
	c := s.candidates()
	defer c.Close()
	chosen, err := c.Next(s.w.t.Context())
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.expectSlotsInStep()
	return chosen
}

// end ends the handshake or the tunnel of a choice.
func (s *site) end(c *Choice) {
	s.w.TrialOver(c)
	s.w.GiveBack(c)
	s.expectSlotsInStep()
}

// opens has the i-th upstream open a tunnel for a client, which ends at once.
func (s *site) opens(i, of int) {
	c := s.candidates()
	defer c.Close()
	if chosen := c.Reserve(s.Fixed[i]); chosen != nil {
		s.w.Answered(chosen, client(of), 10*time.Millisecond)
		s.end(chosen)
	}
}

// unanswered has handshakes fail at the i-th upstream, and returns after which of them others
// are asked.
func (s *site) unanswered(i, times int) (asked []bool) {
	for range times {
		asked = append(asked, s.w.Unanswered(s.Fixed[i].Failures))
	}
	return asked
}

// expectDoubtful checks what operators see.
func (w *world) expectDoubtful(when string, want ...string) {
	w.t.Helper()
	var got []string
	for _, i := range w.List() {
		if i.Doubtful {
			got = append(got, i.Address)
		}
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("%s, doubtful are %v, want %v", when, got, want)
	}
}

// expectNewcomers checks where many newcomers go.
func (s *site) expectNewcomers(when string, want ...string) {
	s.w.t.Helper()
	got := make(map[string]bool)
	for range 100 {
		got[s.chooses()] = true
	}
	for _, address := range want {
		if !got[address] {
			s.w.t.Errorf("%s, nobody goes to %s", when, address)
		}
		delete(got, address)
	}
	for address := range got {
		s.w.t.Errorf("%s, somebody goes to %q", when, address)
	}
}

func TestOthersAreAskedAfterSoManyFailuresInARow(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(s *site)
		want []bool
	}{
		"nothing between":            {func(*site) {}, []bool{true, true}},
		"a success between":          {func(s *site) { s.opens(0, 1) }, []bool{false, false, true, true}},
		"a late success between":     {openLate, []bool{true}},
		"they have answered alike":   {func(s *site) { s.w.Acquit(s.Fixed[0].Failures) }, []bool{false, false, true}},
		"nobody was there to ask":    {func(s *site) { s.unanswered(0, 5) }, []bool{true, true}},
		"a long time between":        {func(*site) { time.Sleep(24 * time.Hour) }, []bool{true}},
		"another one has failed":     {func(s *site) { s.unanswered(1, 1) }, []bool{true}},
		"another one has opened":     {func(s *site) { s.opens(1, 1) }, []bool{true}},
		"it is doubtful":             {func(s *site) { s.convict(0) }, []bool{true, true}},
		"it is doubtful, and opened": {func(s *site) { s.convict(0); s.opens(0, 1) }, []bool{true, true}},
		"alike, and it is doubtful":  {func(s *site) { s.convict(0); s.w.Acquit(s.Fixed[0].Failures) }, []bool{true}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(doubting, "a:1", "b:1")
				if got := s.unanswered(0, maxFails-1); slices.Contains(got, true) {
					t.Errorf("asked after %v", got)
				}
				c.do(s)
				if got := s.unanswered(0, len(c.want)); !slices.Equal(got, c.want) {
					t.Errorf("asked after %v, want %v", got, c.want)
				}
			})
		})
	}
}

func openLate(s *site) {
	chosen := s.picks()
	chosen.Endpoint, chosen.Overdue = s.Fixed[0], true
	s.w.Answered(chosen, client(1), time.Minute)
	s.end(chosen)
}

func TestNewcomersPassADoubtfulOneBy(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(s *site)
		want []string
	}{
		"nothing is doubtful":          {func(*site) {}, []string{"a:1", "b:1"}},
		"one is":                       {func(s *site) { s.convict(0) }, []string{"b:1"}},
		"all are, before backups":      {func(s *site) { s.convict(0); s.convict(1) }, []string{"a:1", "b:1"}},
		"the other one is closed":      {func(s *site) { s.convict(0); s.w.operate(Maint, "b:1") }, []string{"a:1"}},
		"the other one is drained":     {func(s *site) { s.convict(0); s.w.operate(Drain, "b:1") }, []string{"a:1"}},
		"the other one fails":          {func(s *site) { s.convict(0); s.fail(1, maxFails) }, []string{"a:1"}},
		"it fails, too":                {func(s *site) { s.convict(0); s.fail(0, maxFails) }, []string{"b:1"}},
		"backups":                      {closePrimaries, []string{"c:1", "d:1"}},
		"a doubtful backup":            {func(s *site) { closePrimaries(s); s.convict(2) }, []string{"d:1"}},
		"doubtful backups":             {func(s *site) { closePrimaries(s); s.convict(2); s.convict(3) }, []string{"c:1", "d:1"}},
		"a backup is no other of it":   {func(s *site) { s.convict(0); s.convict(2); s.w.operate(Maint, "b:1") }, []string{"a:1"}},
		"all fail and one is in doubt": {func(s *site) { failAll(s); s.convict(0) }, []string{"b:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(doubting, "a:1", "b:1")
				for _, address := range []string{"c:1", "d:1"} {
					s.AddFixed(&Server{Weight: 1, Backup: true}, Address{HostPort: address})
				}
				c.do(s)
				s.expectNewcomers(name, c.want...)
			})
		})
	}
}

func closePrimaries(s *site) {
	s.w.said++
	s.w.SetStates(s.w.said, map[string]State{"a:1": {State: Maint}, "b:1": {State: Maint}})
}

func failAll(s *site) {
	for i := range s.Fixed {
		s.fail(i, maxFails)
	}
}

func TestACheckThatOpensATunnelEndsADoubt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(func(p *Pool) {
			startingSlowly(p)
			p.Joins = append(p.Joins, func(e *Endpoint) { w.Judge(e, "check") })
			p.Leaves = append(p.Leaves, func(e *Endpoint) { w.Unjudge(e) })
		}, "a:1", "b:1")
		s.convict(0)
		w.Report(s.Fixed[0].Verdict, "", 1, 1)
		w.Passed(s.Fixed[1].Verdict)
		w.expectDoubtful("after other checks", "a:1")
		w.Passed(s.Fixed[0].Verdict)
		w.expectDoubtful("after its check")
		if since := s.SlowSince("a:1"); !since.Equal(time.Now()) {
			t.Errorf("starts slowly from %v on, want now", since)
		}
		time.Sleep(time.Second)
		w.Passed(s.Fixed[0].Verdict)
		if since := s.SlowSince("a:1"); since.Equal(time.Now()) {
			t.Error("it was not doubtful, and starts slowly again")
		}
	})
}

func TestDoubtsOutliveAReload(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		before := w.load(doubting, "a:1", "b:1")
		before.unanswered(0, maxFails-1)
		between := w.load(doubting, "a:1", "b:1")
		if got := between.unanswered(0, 1); !got[0] {
			t.Error("failures of the same upstream are not counted together")
		}
		before.convict(0)
		after := w.load(doubting, "a:1", "b:1")
		other := w.load(func(p *Pool) { doubting(p); p.Transport = "another" }, "a:1", "b:1")
		before.unload()
		between.unload()
		after.expectNewcomers("after a reload", "b:1")
		other.expectNewcomers("with another transport", "a:1", "b:1")
		time.Sleep(failDuration)
		trial := after.picks()
		if !trial.Trial {
			t.Fatal("there is no trial after a reload")
		}
		f := after.Fixed[0].Failures
		after.unload()
		w.TrialOver(trial) // of a handshake that was under way
		w.GiveBack(trial)
		if w.Unanswered(f); w.Convict(f) || w.WasReset(f, client(1)) {
			t.Error("what nobody uses any more becomes doubtful")
		}
		again := w.load(doubting, "a:1", "b:1")
		again.expectNewcomers("after it was gone", "a:1", "b:1")
	})
}

func TestNothingIsHeldAgainstAddressesOfRequests(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting, "b:1")
		s.AddTemplate(&Server{Weight: 1}, "{a}:1")
		c, err := s.Candidates(func(string) (Address, error) { return Address{HostPort: "a:1"}, nil })
		if err != nil {
			t.Fatal(err)
		}
		var expanded *Choice
		for expanded == nil {
			chosen, err := c.Next(t.Context())
			if err != nil || chosen == nil {
				t.Fatalf("got %+v, %v", chosen, err)
			}
			if c.NextRound(); chosen.Endpoint.Failures == nil {
				expanded = chosen
			} else {
				s.end(chosen)
			}
		}
		f := expanded.Endpoint.Failures
		for range 2 * maxFails {
			if w.Unanswered(f) || w.Convict(f) || w.WasReset(f, client(1)) {
				t.Error("a failure counts")
			}
		}
		w.Acquit(f)
		w.Answered(expanded, client(1), time.Second)
		s.end(expanded)
		c.Close()
	})
}

func TestWhatIsLateFollowsWhatIsUsual(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting, "a:1")
		late := func(of string, took time.Duration, times int, least, most time.Duration) {
			t.Helper()
			for range times {
				chosen := s.picks()
				chosen.Overdue = took > chosen.Late
				w.Answered(chosen, client(1), took)
				s.end(chosen)
			}
			chosen := s.picks()
			defer s.end(chosen)
			if chosen.Late < least || chosen.Late > most {
				t.Errorf("%s, late is %v, want %v to %v", of, chosen.Late, least, most)
			}
		}
		late("with nothing known", 0, 0, leastLate, leastLate)
		late("with one that was slow", 20*time.Second, 1, 200*time.Second, 200*time.Second)
		late("with many that were not", 100*time.Millisecond, 200, leastLate, leastLate)
		late("with an outlier", time.Hour, 1, leastLate, leastLate)
		late("with slow ones all the time", 8*time.Second, 200, 70*time.Second, 90*time.Second)
	})
}

package upstream

import "testing"

// percent and limitTo are what an agent says of weight and tunnels.
func percent(n int) Word { return Word{Weight: Amount{true, n}} }
func limitTo(n int) Word { return Word{Most: Amount{true, n}} }

// heeding loads a configuration whose first upstream has an agent.
func (w *world) heeding(set func(p *Pool), addresses ...string) (*site, *Verdict) {
	var heard []*Endpoint
	s := w.load(func(p *Pool) {
		set(p)
		p.Joins = append(p.Joins, func(e *Endpoint) {
			if e.Host.Address == addresses[0] {
				heard = append(heard, e)
				w.Heed(e, "agent")
			}
		})
		p.Leaves = append(p.Leaves, func(e *Endpoint) {
			if e.Agent != nil {
				w.Unheed(e)
			}
		})
	}, addresses...)
	return s, heard[0].Agent
}

func TestWhatAnAgentSays(t *testing.T) {
	for name, test := range map[string]struct {
		word Word
		gets bool // tunnels
	}{
		"nothing":          {Word{}, true},
		"up":               {Word{Health: Up}, true},
		"ready":            {Word{State: Ready}, true},
		"down":             {Word{Health: Down}, false},
		"fail":             {Word{Health: "fail"}, false},
		"stopped":          {Word{Health: "stopped"}, false},
		"drain":            {Word{State: Drain}, false},
		"maint":            {Word{State: Maint}, false},
		"maint, but up":    {Word{State: Maint, Health: Up}, false},
		"ready, but down":  {Word{State: Ready, Health: Down}, false},
		"no weight":        {percent(0), false},
		"some weight":      {percent(1), true},
		"as many as it is": {limitTo(1), false},
		"one more":         {limitTo(2), true},
		"any number":       {limitTo(0), true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s, agent := w.heeding(func(p *Pool) { p.MaxTunnels = 2 }, "a:1")
				defer w.TunnelEnded(w.occupy("a:1"))
				w.Hear(agent, test.word, "")
				if got := s.chooses() != ""; got != test.gets {
					t.Errorf("it gets tunnels: %t, want %t", got, test.gets)
				}
			})
		})
	}
}

func TestAnAgentIsNotStrongerThanOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s, agent := w.heeding(asItIs, "a:1")
		yes := Word{State: Ready, Health: Up, Weight: Amount{true, 100}}
		w.operate(Drain, "a:1")
		w.Hear(agent, yes, "")
		if got := s.chooses(); got != "" {
			t.Errorf("the agent's ready has cancelled an operator's drain")
		}
		w.operate(Ready, "a:1")
		w.Judge(s.Fixed[0], "check")
		w.Report(s.Fixed[0].Verdict, "bad", 1, 1)
		w.Hear(agent, yes, "")
		if got := s.chooses(); got != "" {
			t.Errorf("the agent's up has cancelled what an active check has found")
		}
		w.Unjudge(s.Fixed[0])
	})
}

func TestWeightsOfAgents(t *testing.T) {
	for _, test := range []struct{ weight, percent, want int }{
		{1, 75, 75},
		{1, 33, 33},
		{4, 50, 200},
		{100, 75, 7500},
		{1, 100, 100},
		{1, 25600, 25600},
		{3, 25600, 25600},
		{256, 200, 25600},
		{1000, 100, 100000},
		{1000, 200, 100000},
		{1000, 50, 50000},
		{MaxWeight, 25600, MaxWeight * 100},
		{1, 1, 1},
		{7, 0, 700},
	} {
		if got := percent(test.percent).scale(test.weight); got != test.want {
			t.Errorf("%d%% of %d is %d hundredths, want %d", test.percent, test.weight, got, test.want)
		}
	}
}

func TestNewcomersGoByTheWeightsOfAgents(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s, agent := w.heeding(asItIs, "a:1", "b:1")
		w.Hear(agent, percent(50), "")
		var open []*Host
		for range 300 {
			open = append(open, s.open())
		}
		if got := s.counts(); got[0] < 99 || got[0] > 101 {
			t.Errorf("with half of the weight it has %d of 300 tunnels, want 100", got[0])
		}
		for _, h := range open {
			w.TunnelEnded(h)
		}
	})
}

func TestWhatAnAgentHasSaidSurvivesAReload(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		old, agent := w.heeding(asItIs, "a:1")
		w.Hear(agent, Word{State: Maint}, "")
		s, same := w.heeding(asItIs, "a:1")
		old.unload()
		if same != agent || s.chooses() != "" {
			t.Error("the new configuration has forgotten what the agent has said")
		}
		s.unload()
		if s, _ := w.heeding(asItIs, "a:1"); s.chooses() == "" {
			t.Error("what was said outlives all who asked")
		}
	})
}

func TestWaitersGetWhatAnAgentAllows(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s, agent := w.heeding(narrow, "a:1")
		defer w.TunnelEnded(w.occupy("a:1"))
		one := s.stand()
		one.expectWaiting("it is full")
		w.Hear(agent, limitTo(2), "")
		one.expect("a:1", nil)
		one.leave()
	})
}

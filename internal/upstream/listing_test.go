package upstream

import (
	"testing"
	"time"
)

func TestListCountsWhoWaitsForAnAddress(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s, other, free := w.load(narrow, "a:1", "b:1"), w.load(narrow, "a:1"), w.load(narrow, "c:1")
		all := []*standing{s.stand(), s.stand(), s.stand(), s.stand(), other.stand(), free.stand()}
		expect := func(when string, want map[string]int) {
			t.Helper()
			for _, i := range w.List() {
				if one, _ := w.Info(i.Address); i.Queued != want[i.Address] || one != i {
					t.Errorf("%s, %d wait for %s, want %d; alone it has %d", when, i.Queued, i.Address, want[i.Address], one.Queued)
				}
			}
		}
		expect("at first", map[string]int{"a:1": 3, "b:1": 2})
		w.operate(Drain, "b:1")
		expect("when one is drained", map[string]int{"a:1": 3})
		for _, one := range all {
			one.leave()
		}
		expect("at the end", nil)
	})
}

func TestListTellsWhatIsFoundOut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		checked := func(key string) *site {
			return w.load(func(p *Pool) {
				watching(p)
				p.Joins = append(p.Joins, func(e *Endpoint) { w.Judge(e, key) })
				p.Leaves = append(p.Leaves, func(e *Endpoint) { w.Unjudge(e) })
			}, "a:1")
		}
		one, other := checked("one"), checked("other")
		report := func(s *site, problem string) func() {
			return func() { w.Report(s.Fixed[0].Verdict, problem, 1, 1) }
		}
		for _, step := range []struct {
			do            func()
			health, says  string
			failing       bool
			oneIs, goneIs bool // down, by its own check, and by one that nobody makes any more
		}{
			{func() {}, Unchecked, "", false, false, false},
			{report(one, ""), Up, "", false, false, false},
			{report(other, "broken"), Down, "broken", false, false, true},
			{report(one, "shut"), Down, "broken", false, true, true},
			{report(other, ""), Down, "shut", false, true, true},
			{func() { one.fail(0, 2) }, Down, "shut", true, true, true},
			{report(one, ""), Up, "", true, false, false},
			{other.unload, Up, "", true, false, false},
		} {
			step.do()
			i, _ := w.Info("a:1")
			if i.Health != step.health || i.HealthError != step.says || i.Failing != step.failing || i.Checked.IsZero() != (step.health == Unchecked) {
				t.Errorf("the list has %+v, want %+v", i, step)
			}
			h := one.Fixed[0].Host
			if got, gone := w.IsDown(h, "one"), w.IsDown(h, "gone"); got != step.oneIs || gone != step.goneIs {
				t.Errorf("down by its check: %t, by one that has gone: %t; want %+v", got, gone, step)
			}
		}
	})
}

func TestListTellsWhatIsConfigured(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		at := time.Now()
		w.SetStates(1, map[string]State{"a:1": {State: Evict, By: "me", At: at}, "nobody:1": {State: Drain, At: at}})
		s := w.load(asItIs, "a:1")
		found := w.Name("b:1", "dns")
		c, _ := s.Candidates(nil)
		c.Add(NewEndpoint(&Server{Weight: 1}, Address{HostPort: "c:1"}), new(Provenance), "room")
		for i, want := range []Info{
			{Address: "a:1", State: Evict, By: "me", Since: at, Configured: true},
			{Address: "b:1", State: Ready, Configured: true, Source: "dns"},
			{Address: "c:1", State: Ready, Source: "room"},
			{Address: "nobody:1", State: Drain, Since: at},
		} {
			want.Health = Unchecked
			if got := w.List()[i]; got != want {
				t.Errorf("the list has %+v, want %+v", got, want)
			}
		}
		c.Close()
		w.SetStates(2, nil)
		if !w.Unname(found, "dns", true) || !w.WasDropped(found) || w.IsNamed(found, nil) {
			t.Error("what no source finds any more is still there")
		}
		if got := w.List(); len(got) != 1 || got[0].Address != "a:1" || got[0].State != Ready {
			t.Errorf("the list has still %+v", got)
		}
	})
}

// What depends on requests has an upstream as long as its template has one; what a source
// has found for a request, as long as it lives.
func TestWhereATunnelComesFromKeepsItsUpstream(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(asItIs, "a:1")
		s.AddTemplate(&Server{Weight: 1}, "{host}:1")
		again := w.load(asItIs)
		again.AddTemplate(&Server{Weight: 1}, "{host}:1")
		expanded, fixed := w.occupy("b:1"), s.Fixed[0].Host
		for _, step := range []struct {
			do       func()
			fixed    bool
			template bool
		}{{func() {}, true, true}, {s.unload, false, true}, {again.unload, false, false}} {
			step.do()
			if got := w.IsNamed(fixed, nil); got != step.fixed {
				t.Errorf("a fixed one is named: %t, want %t", got, step.fixed)
			}
			if got := w.IsNamed(expanded, FromTemplate("{host}:1")); got != step.template {
				t.Errorf("one of a template is named: %t, want %t", got, step.template)
			}
			if w.IsNamed(expanded, nil) || !w.IsNamed(expanded, new(Provenance)) {
				t.Error("what a source has found for a request goes by others")
			}
		}
		w.TunnelEnded(expanded)
	})
}

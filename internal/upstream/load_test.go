package upstream

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// report has all upstreams report their utilisation.
func (s *site) report(now func(e *Endpoint) float64) {
	for _, e := range s.Fixed {
		s.w.Reported(e.Load, now(e))
	}
}

// measured loads a configuration that goes by load.
func (w *world) measured(set func(*Pool), addresses ...string) *site {
	return w.load(func(p *Pool) {
		set(p)
		p.GoesByLoad = true
		p.Joins = append(p.Joins, func(e *Endpoint) { w.WatchLoad(e, "load") })
		p.Leaves = append(p.Leaves, w.UnwatchLoad)
	}, addresses...)
}

func TestReportsOfLoadCountLaterAndNotForEver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.measured(asItIs, "a:1", "b:1")
		weights := func() [2]int32 {
			time.Sleep(time.Second)
			w.TunnelEnded(s.open())
			return [2]int32{s.slots[0].weight, s.slots[1].weight}
		}
		load := map[string]float64{"a:1": 0.3, "b:1": 0.1}
		tell := func(e *Endpoint) float64 { return load[e.Host.Address] }
		s.report(tell)
		if got := weights(); got[0] != got[1] {
			t.Errorf("in the blackout the weights are %v", got)
		}
		time.Sleep(10 * time.Second)
		if got := weights(); got != [2]int32{50, 150} {
			t.Errorf("the weights are %v, want 50 and 150", got)
		}
		for _, nothing := range []float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1)} {
			load = map[string]float64{"a:1": nothing, "b:1": nothing}
			s.report(tell)
			if got := weights(); got != [2]int32{50, 150} {
				t.Errorf("after a report of %v the weights are %v, want 50 and 150", nothing, got)
			}
		}
		load = map[string]float64{"a:1": 1e300, "b:1": 1e-300}
		s.report(tell)
		if got := weights(); got != [2]int32{13, 188} {
			t.Errorf("after absurd reports the weights are %v", got)
		}
		time.Sleep(3 * time.Minute)
		if got := weights(); got != [2]int32{100, 100} {
			t.Errorf("when the reports are old the weights are %v", got)
		}
	})
}

// TestSharesOfLoad: whatever is reported, the sum stays, nobody leaves the bounds, and who
// can take more gets no less.
func TestSharesOfLoad(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		portions := make([]portion, 1+random.IntN(20))
		for i := range portions {
			portions[i].weight = float64(100 * (1 + random.IntN(10)))
			if random.IntN(5) > 0 {
				portions[i].capacity = math.Exp(random.NormFloat64() * 10)
			}
		}
		was := slices.Clone(portions)
		level(portions)
		var before, after float64
		for i, p := range portions {
			before += was[i].weight
			after += p.weight
			factor := p.weight / was[i].weight
			if factor < 1.0/loadBound-1e-9 || factor > loadBound+1e-9 || p.capacity == 0 && factor != 1 {
				t.Fatalf("%v of %v weighs %v times as much", p.capacity, was, factor)
			}
			for j, q := range portions {
				if p.capacity > q.capacity && q.capacity > 0 && was[i].weight >= was[j].weight && p.weight < q.weight*(1-1e-9) {
					t.Fatalf("%v weighs less than %v", p, q)
				}
			}
		}
		if math.Abs(after-before) > before*1e-5 {
			t.Fatalf("of %v in all, the sum has become %v", before, after)
		}
	}
}

// TestWeightsArePredictions: the fewest tunnels for a weight means the least utilisation
// that is to be expected with one more.
func TestWeightsArePredictions(t *testing.T) {
	t.Parallel()
	predicted := func(u float64, now, then int) float64 { return u * float64(now+1) / float64(max(then, 1)) }
	random := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		var portions []portion
		var expected []float64
		tunnels := []int{random.IntN(100), random.IntN(100)}
		for _, now := range tunnels {
			u, then := 0.1+0.9*random.Float64(), 50+random.IntN(100)
			l := &Load{utilisation: u, tunnels: then, at: time.Now(), since: time.Now().Add(-loadBlackout)}
			portions = append(portions, portion{weight: 100, capacity: l.capacityLocked(time.Now())})
			expected = append(expected, predicted(u, now, then))
		}
		level(portions)
		a, b := float64(tunnels[0]+1)/portions[0].weight, float64(tunnels[1]+1)/portions[1].weight
		if bound := portions[0].weight < 13 || portions[1].weight < 13; !bound && (a < b) != (expected[0] < expected[1]) {
			t.Fatalf("%v tunnels with the weights %v go by %v and %v, but %v are expected", tunnels, portions, a, b, expected)
		}
	}
}

// fleet is four upstreams that can take different numbers of tunnels.
var fleet = map[string]float64{"a:1": 250, "b:1": 500, "c:1": 1000, "d:1": 2000}

// spread lets clients come and go for two hours, while the upstreams report now and then.
// It returns by which factor utilisations differ in the end.
func (s *site) spread(reported func()) float64 {
	const perSecond, lifetime = 5, 600 // so 3,000 are there at a time, of 3,750
	random := rand.New(rand.NewPCG(5, 6))
	type tunnel struct {
		host *Host
		ends time.Time
	}
	var open []tunnel
	for second := range 2 * 3600 {
		time.Sleep(time.Second)
		for range perSecond {
			open = append(open, tunnel{s.open(), time.Now().Add(time.Duration(random.ExpFloat64() * lifetime * float64(time.Second)))})
		}
		open = slices.DeleteFunc(open, func(one tunnel) bool {
			over := !time.Now().Before(one.ends)
			if over {
				s.w.TunnelEnded(one.host)
			}
			return over
		})
		if second%30 == 0 {
			reported()
		}
	}
	var used []float64
	for _, e := range s.Fixed {
		used = append(used, float64(e.Host.tunnels)/fleet[e.Host.Address])
	}
	for _, one := range open {
		s.w.TunnelEnded(one.host)
	}
	s.w.t.Logf("utilisations are %.2f", used)
	return slices.Max(used) / slices.Min(used)
}

// TestLoadReportsLevelUnequalUpstreams is a simulation of a fleet whose configuration says
// that all are equal. A weight by what is free, which balancers of requests use, makes
// tunnels better, but not level: who has half of the others' capacity stays fuller.
func TestLoadReportsLevelUnequalUpstreams(t *testing.T) {
	addresses := []string{"a:1", "b:1", "c:1", "d:1"}
	used := func(e *Endpoint) float64 { return float64(e.Host.tunnels) / fleet[e.Host.Address] }
	inWorld(t, func(t *testing.T, w *world) {
		s := w.measured(asItIs, addresses...)
		if got := s.spread(func() { s.report(used) }); got > 1.1 {
			t.Errorf("by what is predicted, utilisations differ by %.2f", got)
		}
	})
	t.Run("by what is free", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			s := w.load(asItIs, addresses...)
			got := s.spread(func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, e := range s.Fixed {
					e.share = max(1, int(weightScale*(1-used(e))))
					e.showLocked()
				}
			})
			if got < 1.1 {
				t.Errorf("by what is free, utilisations differ by %.2f only", got)
			}
		})
	})
}

func TestWhatAnAgentSaysCountsBesideReports(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s, agent := w.heeding(func(p *Pool) {
			p.GoesByLoad = true
			p.Joins = append(p.Joins, func(e *Endpoint) { w.WatchLoad(e, "load") })
			p.Leaves = append(p.Leaves, w.UnwatchLoad)
		}, "a:1", "b:1")
		w.Hear(agent, percent(50), "")
		s.report(func(*Endpoint) float64 { return 0.1 })
		time.Sleep(loadBlackout)
		w.TunnelEnded(s.open())
		if a, b := s.slots[0].weight, s.slots[1].weight; a != 50 || b != 100 {
			t.Errorf("as busy as the other, and with 50%%, it weighs %d and the other %d, want 50 and 100", a, b)
		}
	})
}

func TestALiarGetsNoMoreThanItsBound(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const upstreams = 20
		var addresses []string
		for i := range upstreams {
			addresses = append(addresses, string(rune('a'+i))+":1")
		}
		s := w.measured(asItIs, addresses...)
		var open []*Host
		for range 2000 {
			s.report(func(e *Endpoint) float64 {
				if e == s.Fixed[0] {
					return 1e-9
				}
				return 0.5
			})
			time.Sleep(time.Second)
			open = append(open, s.open())
		}
		if got := s.counts(); got[0] > loadBound*2000/upstreams*11/10 {
			t.Errorf("one that says that it has nothing to do has %d of 2000 tunnels", got[0])
		}
		for _, h := range open {
			w.TunnelEnded(h)
		}
	})
}

package limit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

const stormed = 9000

// seeds are a few, or many if LONG is set, as in continuous integration.
func seeds(clients int) uint64 {
	if os.Getenv("LONG") != "" && clients == stormed {
		return 30
	}
	return 5
}

var works = map[string]func(*rand.Rand) float64{
	"equal":       func(*rand.Rand) float64 { return 1 },
	"even":        func(r *rand.Rand) float64 { return 0.5 + r.Float64() },
	"exponential": (*rand.Rand).ExpFloat64,
}

// span are the shortest and the longest times that storms took.
type span struct{ least, most float64 }

// storms are the times until all are served, as parts of what the upstream could do.
func storms(t *testing.T, clients, nodes int, work func(*rand.Rand) float64, newLimiter func(*rand.Rand) limiter) span {
	t.Helper()
	took := span{least: 1e9}
	for seed := range seeds(clients) {
		s := newStorm(seed, clients, nodes, newLimiter)
		s.work = work
		s.run(24 * time.Hour)
		if s.served != clients || s.failed != 0 {
			t.Errorf("seed %d: %d are served and %d failed of %d", seed, s.served, s.failed, clients)
		}
		s.isOver(t)
		part := s.latest.Sub(start).Seconds() * 200 / float64(clients)
		took.least, took.most = min(took.least, part), max(took.most, part)
	}
	return took
}

// isOver asserts that nobody is forgotten, and no place lost.
func (s *storm) isOver(t *testing.T) {
	t.Helper()
	for i, n := range s.nodes {
		if n.waiting != 0 {
			t.Errorf("at node %d %d still wait", i, n.waiting)
		}
		if a, ok := n.limiter.(*Auto); ok && (a.UnderWay() != 0 || a.under.first != a.under.next) {
			t.Errorf("at node %d %d still count", i, a.UnderWay())
		}
	}
}

// All clients of an upstream come back at once, or ten times as many, so that it lasts. With
// the best number, which nobody knows, it takes 1.00 times as long as the upstream needs,
// with 100 2.8 times, and without a limit 90 times.
func TestStorm(t *testing.T) {
	for name, work := range works {
		for _, c := range []struct {
			clients, nodes int
			most           float64
		}{
			{stormed, 1, 1.3},
			{stormed, 2, 1.3},
			{stormed, 4, 1.5},
			{10 * stormed, 1, 1.2},
			{10 * stormed, 2, 1.25},
			{10 * stormed, 4, 1.9},
		} {
			t.Run(fmt.Sprintf("%s work, clients %d, nodes %d", name, c.clients, c.nodes), func(t *testing.T) {
				if c.clients > stormed && os.Getenv("LONG") == "" {
					t.Skip("takes some seconds; set LONG to run it")
				}
				took := storms(t, c.clients, c.nodes, work, withAuto)
				t.Logf("%.3f to %.3f times the ideal", took.least, took.most)
				if took.most > c.most {
					t.Errorf("it takes up to %.3f times the ideal, want %v at most", took.most, c.most)
				}
			})
		}
	}
}

// The model itself: what it is worth to know the number.
func TestStormWithALimitThatIsSet(t *testing.T) {
	for most, want := range map[int]span{4: {1.9, 2.1}, 8: {0.97, 1.03}, 100: {2.7, 3}} {
		took := storms(t, stormed, 1, works["exponential"], func(*rand.Rand) limiter { return &fixed{most: most} })
		if took.least < want.least || took.most > want.most {
			t.Errorf("with %d it takes %.2f to %.2f times the ideal, want %v", most, took.least, took.most, want)
		}
	}
}

func after(d time.Duration, outcome Outcome) func(*rand.Rand, int) (time.Duration, Outcome) {
	return func(*rand.Rand, int) (time.Duration, Outcome) { return d, outcome }
}

// sometimes is what happens to so many percent; the others are only worked at.
func sometimes(percent int, d time.Duration, outcome Outcome) func(*rand.Rand, int) (time.Duration, Outcome) {
	return func(r *rand.Rand, _ int) (time.Duration, Outcome) {
		if r.IntN(100) < percent {
			return d, outcome
		}
		return 0, Answered
	}
}

// beyond is what happens where more than 100 are under way; the others take half a second.
func beyond(d time.Duration, outcome Outcome) func(*rand.Rand, int) (time.Duration, Outcome) {
	return func(_ *rand.Rand, n int) (time.Duration, Outcome) {
		if n > 100 {
			return d, outcome
		}
		return time.Second / 2, Answered
	}
}

// Upstreams that the rule is not made for. It may be slow there; it must come to an end.
func TestStormAtAnOddUpstream(t *testing.T) {
	idle := func(*rand.Rand) float64 { return 0 }
	for _, c := range []struct {
		name  string
		work  func(*rand.Rand) float64
		after func(*rand.Rand, int) (time.Duration, Outcome)
		// What one proxy needs at most, how many fail at most, and how many are under way.
		within, failed, most int
	}{
		{"in no time", nil, after(0, Answered), 1, 0, stormed},
		{"after two seconds", nil, after(2*time.Second, Answered), 200, 0, 2048},
		{"after five seconds", nil, after(5*time.Second, Answered), 500, 0, 2048},
		{"after thirty seconds", nil, after(30*time.Second, Answered), 2600, 0, 2048},
		{"never, until the proxy ends it", nil, after(30*time.Second, Unknown), 180, stormed, 2100},
		{"half with 500 at once", works["exponential"], sometimes(50, time.Millisecond, Failed), 40, stormed * 6 / 10, 100},
		{"one of a hundred with 503", works["exponential"], sometimes(1, time.Millisecond, Overloaded), 60, 150, 100},
		{"with 503 only", idle, after(time.Millisecond, Overloaded), 10, stormed, 4},
		{"a tenth of them late", works["exponential"], sometimes(10, 10*time.Second, Answered), 150, 0, 300},
		{"half of them late", works["exponential"], sometimes(50, 2*time.Second, Answered), 400, 0, 300},
		{"as fast until it says 503", nil, beyond(time.Millisecond, Overloaded), 120, 400, 150},
		{"as fast until it is slow", nil, beyond(5*time.Second, Answered), 200, 0, 300},
		{"as fast until it hangs", nil, beyond(30*time.Second, Unknown), 700, stormed, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			for nodes := 1; nodes <= 4; nodes *= 2 {
				s := newStorm(1, stormed, nodes, withAuto)
				s.work, s.after = c.work, c.after
				s.run(24 * time.Hour)
				took := s.now.Sub(start)
				t.Logf("nodes %d: %v; %d failed, %d under way at most", nodes, took.Round(time.Second), s.failed, s.most)
				s.isOver(t)
				if s.served+s.failed != stormed {
					t.Errorf("%d are served and %d failed of %d", s.served, s.failed, stormed)
				}
				if nodes == 1 && (took > time.Duration(c.within)*time.Second || s.failed > c.failed || s.most > c.most) {
					t.Errorf("it takes %v, %d fail, %d are under way; want %d s, %d and %d at most",
						took, s.failed, s.most, c.within, c.failed, c.most)
				}
			}
		})
	}
}

// An upstream that stops for a while, such as to collect garbage, is found again.
func TestStormAtAnUpstreamThatHangs(t *testing.T) {
	for _, from := range []float64{0, 10} {
		for nodes, within := range map[int]float64{1: 70, 2: 120} {
			s := newStorm(1, stormed, nodes, withAuto)
			s.after = func(*rand.Rand, int) (time.Duration, Outcome) {
				if s.now.Before(at(from)) {
					return 0, Answered
				}
				return max(0, at(from+10).Sub(s.now)), Answered
			}
			s.run(24 * time.Hour)
			s.isOver(t)
			if took := s.now.Sub(start).Seconds(); took > within || s.served != stormed {
				t.Errorf("nodes %d: in %.0f s %d are served of %d, want all in %v s", nodes, took, s.served, stormed, within)
			}
		}
	}
}

package balance

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// at is an upstream with so many tunnels, all of which may be closed.
func at(tunnels int, change ...func(*Load)) Load {
	l := Load{Tunnels: tunnels, Movable: tunnels, Weight: 1}
	for _, f := range change {
		f(&l)
	}
	return l
}

func weighing(weight float64) func(*Load) {
	return func(l *Load) { l.Weight = weight }
}

func atMost(n int) func(*Load)      { return func(l *Load) { l.Most = n } }
func onlyMovable(n int) func(*Load) { return func(l *Load) { l.Movable = n } }
func backup(l *Load)                { l.Backup = true }
func drained(l *Load)               { l.Closed = true }

func TestLevels(t *testing.T) {
	for name, test := range map[string]struct {
		loads []Load
		want  []int
		level bool
	}{
		"nothing":                     {nil, []int{}, true},
		"no tunnels":                  {[]Load{at(0), at(0)}, []int{0, 0}, true},
		"only one":                    {[]Load{at(7)}, []int{7}, true},
		"one is new":                  {[]Load{at(150), at(150), at(0)}, []int{100, 100, 100}, false},
		"the rest stays where it is":  {[]Load{at(2), at(0), at(2)}, []int{2, 1, 1}, false},
		"and so it is level":          {[]Load{at(1), at(2), at(1)}, []int{1, 2, 1}, true},
		"within the tolerance":        {[]Load{at(105), at(95), at(100)}, []int{100, 100, 100}, true},
		"too many":                    {[]Load{at(106), at(97), at(97)}, []int{100, 100, 100}, false},
		"too few":                     {[]Load{at(103), at(103), at(94)}, []int{100, 100, 100}, false},
		"many full ones, one empty":   {slices.Concat(slices.Repeat([]Load{at(100)}, 99), []Load{at(0)}), slices.Repeat([]int{99}, 100), false},
		"by weight":                   {[]Load{at(90), at(0, weighing(2))}, []int{30, 60}, false},
		"by weight, level":            {[]Load{at(30), at(60, weighing(2))}, []int{30, 60}, true},
		"a new one has few places":    {[]Load{at(100), at(100), at(0, atMost(10))}, []int{95, 95, 10}, false},
		"a new one is full":           {[]Load{at(100), at(100), at(10, atMost(10))}, []int{100, 100, 10}, true},
		"a limit is exceeded":         {[]Load{at(15, atMost(10)), at(15)}, []int{15, 15}, true},
		"what exceeds it may go":      {[]Load{at(15, atMost(10)), at(1)}, []int{8, 8}, false},
		"drained ones are out of it":  {[]Load{at(150, drained), at(20), at(0), at(0, drained)}, []int{150, 10, 10, 0}, false},
		"all but one are drained":     {[]Load{at(50, drained), at(150)}, []int{50, 150}, true},
		"backups wait":                {[]Load{at(50), at(50), at(0, backup)}, []int{50, 50, 0}, true},
		"backups are emptied":         {[]Load{at(0), at(90, backup), at(30)}, []int{60, 0, 60}, false},
		"but not if nothing is free":  {[]Load{at(0, drained), at(90, backup), at(30, atMost(30))}, []int{0, 90, 30}, true},
		"or too little":               {[]Load{at(0, atMost(20)), at(90, backup), at(0, backup)}, []int{20, 35, 35}, false},
		"only backups":                {[]Load{at(90, backup), at(0, backup)}, []int{45, 45}, false},
		"others' tunnels count":       {[]Load{at(100, onlyMovable(60)), at(20), at(0)}, []int{40, 40, 40}, false},
		"and stay":                    {[]Load{at(100, onlyMovable(0)), at(60), at(0)}, []int{100, 30, 30}, false},
		"also on backups":             {[]Load{at(10), at(60, backup, onlyMovable(20))}, []int{30, 40}, false},
		"an empty one of others only": {[]Load{at(80, onlyMovable(0)), at(0)}, []int{80, 0}, true},
	} {
		t.Run(name, func(t *testing.T) {
			v := LevelsOf(test.loads)
			if !slices.Equal(v.want, test.want) || v.IsLevel() != test.level {
				t.Errorf("want %v (level: %v), got %v (level: %v)", test.want, test.level, v.want, v.IsLevel())
			}
		})
	}
}

func TestClosings(t *testing.T) {
	for name, test := range map[string]struct {
		loads []Load
		n     int
		want  []int
	}{
		"none":                     {[]Load{at(150), at(150), at(0)}, 0, []int{0, 0, 0}},
		"in turns":                 {[]Load{at(150), at(150), at(0)}, 21, []int{11, 10, 0}},
		"from the fullest":         {[]Load{at(160), at(140), at(0)}, 20, []int{20, 0, 0}},
		"until the next is full":   {[]Load{at(160), at(140), at(0)}, 30, []int{25, 5, 0}},
		"not more than too many":   {[]Load{at(150), at(150), at(0)}, 1000, []int{50, 50, 0}},
		"by weight":                {[]Load{at(100), at(150, weighing(2)), at(0)}, 20, []int{20, 0, 0}},
		"not at drained ones":      {[]Load{at(500, drained), at(10), at(0)}, 1000, []int{0, 5, 0}},
		"not what is others'":      {[]Load{at(100, onlyMovable(10)), at(0)}, 1000, []int{10, 0}},
		"only for what is free":    {[]Load{at(100), at(0, atMost(3))}, 1000, []int{3, 0}},
		"backups as others":        {[]Load{at(0), at(30, backup)}, 10, []int{0, 10}},
		"nothing if nobody is low": {[]Load{at(51), at(50)}, 1000, []int{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := LevelsOf(test.loads).Closings(test.n); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// simulation is a pool whose clients come back where least_conn sends them.
type simulation struct {
	tb     testing.TB
	loads  []Load
	random *rand.Rand
}

func newSimulation(tb testing.TB, seed uint64) *simulation {
	tb.Helper()
	s := &simulation{tb: tb, random: rand.New(rand.NewPCG(seed, 7))}
	size := 1 << s.random.IntN(10) // of the numbers of tunnels
	for range 1 + s.random.IntN(8) {
		l := Load{Weight: 1}
		if s.random.IntN(3) > 0 { // the others are new
			l.Tunnels = s.random.IntN(1 + size)
			l.Movable = l.Tunnels
			if s.random.IntN(3) == 0 {
				l.Movable -= s.random.IntN(1 + l.Tunnels)
			}
		}
		if s.random.IntN(3) == 0 {
			l.Weight = float64(1 + s.random.IntN(5))
		}
		if s.random.IntN(4) == 0 {
			l.Most = 1 + s.random.IntN(size)
		}
		l.Backup = s.random.IntN(5) == 0
		l.Closed = s.random.IntN(5) == 0
		s.loads = append(s.loads, l)
	}
	return s
}

func (s *simulation) levels() *Levels { return LevelsOf(slices.Clone(s.loads)) }

// eligible are those that may get another tunnel: backups only if no other one may.
func (s *simulation) eligible() (some []*Load) {
	for _, backup := range []bool{false, true} {
		for i := range s.loads {
			l := &s.loads[i]
			if l.Backup == backup && !l.Closed && (l.Most == 0 || l.Tunnels < l.Most) {
				some = append(some, l)
			}
		}
		if len(some) > 0 {
			break
		}
	}
	return some
}

// leastConn picks among the eligible as the policy does, equals at random.
func (s *simulation) leastConn() *Load {
	var best []*Load
	for _, l := range s.eligible() {
		switch {
		case len(best) == 0 || float64(l.Tunnels+1)*best[0].Weight < float64(best[0].Tunnels+1)*l.Weight:
			best = []*Load{l}
		case float64(l.Tunnels+1)*best[0].Weight == float64(best[0].Tunnels+1)*l.Weight:
			best = append(best, l)
		}
	}
	if len(best) == 0 {
		return nil
	}
	return best[s.random.IntN(len(best))]
}

// step closes tunnels and lets their clients come back.
func (s *simulation) step(v *Levels, n int) (closed int) {
	s.tb.Helper()
	closings := v.Closings(n)
	for i := range s.loads {
		k, l := closings[i], &s.loads[i]
		closed += k
		if k < 0 || k > v.excess(i) || k > l.Movable || k > 0 && l.Closed {
			s.tb.Fatalf("%d are closed at upstream %d of %+v, which should have %v", k, i, v.loads, v.want)
		}
		l.Tunnels -= k
		l.Movable -= k
	}
	if closed > n || closed > v.TooMany {
		s.tb.Fatalf("%d are closed, of %d that were asked for and %d too many", closed, n, v.TooMany)
	}
	for range closed {
		l := s.leastConn()
		if l == nil {
			s.tb.Fatalf("nobody takes what was closed at %v of %+v", closings, v.loads)
		}
		l.Tunnels++
		l.Movable++
	}
	return closed
}

// expectSense checks what should be, whatever there is.
func (s *simulation) expectSense(v *Levels) {
	s.tb.Helper()
	tunnels, wanted, tooFew := 0, 0, 0
	for i, l := range v.loads {
		switch w := v.want[i]; {
		case l.Closed && w != l.Tunnels:
			s.tb.Fatalf("a drained upstream should have %d: %+v", w, v.loads)
		case w < l.least() || w > l.room():
			s.tb.Fatalf("upstream %d should have %d: %+v", i, w, v.loads)
		}
		tunnels, wanted = tunnels+l.Tunnels, wanted+v.want[i]
		tooFew += max(0, v.want[i]-l.Tunnels)
	}
	if tunnels != wanted || tooFew != v.TooMany {
		s.tb.Fatalf("%d tunnels should be %d, %d are too many and %d too few: %+v, %v",
			tunnels, wanted, v.TooMany, tooFew, v.loads, v.want)
	}
}

// expectLevel looks for a tunnel that would better be elsewhere, without what
// levelsOf says.
func (s *simulation) expectLevel() {
	s.tb.Helper()
	for _, from := range s.loads {
		tolerated := 1 + 2*levelTolerance*float64(from.Tunnels)
		if from.Closed || from.Backup || float64(from.Movable) <= tolerated {
			continue
		}
		for _, to := range s.eligible() {
			if to.Backup {
				continue // then all others are full, and so stays what they have
			}
			if to.Most > 0 && float64(to.Most-to.Tunnels) <= levelTolerance*float64(to.Most) {
				continue // it has places for no more than what is tolerated
			}
			// One more and one less are what cannot be divided.
			high := float64(from.Tunnels-1) / from.Weight
			low := float64(to.Tunnels+1) / to.Weight
			if low < high*(1-2*levelTolerance)-1 {
				s.tb.Fatalf("after all, %+v has too many, and %+v too few", from, to)
			}
		}
	}
}

// maxSteps are the most that one event sets off.
const maxSteps = 20

func FuzzRebalancing(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed, 0.05+float64(seed%20)/20)
	}
	f.Add(uint64(320), 0.95) // one place is left where many should be
	f.Fuzz(func(t *testing.T, seed uint64, share float64) {
		if !(share >= 1.0/maxSteps && share <= 1) {
			share = 1.0 / maxSteps
		}
		s := newSimulation(t, seed)
		v := s.levels()
		s.expectSense(v)
		worst := v.TooMany
		for range maxSteps {
			if v.IsLevel() {
				break
			}
			before := v.Unevenness()
			s.step(v, int(math.Ceil(share*float64(worst))))
			v = s.levels()
			s.expectSense(v)
			if v.Unevenness() >= before {
				break // what is left cannot be divided
			}
		}
		s.expectLevel()
	})
}

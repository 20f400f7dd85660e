package websocketproxy

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// at is an upstream with so many tunnels, all of which may be closed.
func at(tunnels int, change ...func(*upstreamLoad)) upstreamLoad {
	l := upstreamLoad{tunnels: tunnels, movable: tunnels, weight: 1}
	for _, f := range change {
		f(&l)
	}
	return l
}

func weighing(weight float64) func(*upstreamLoad) {
	return func(l *upstreamLoad) { l.weight = weight }
}

func atMost(n int) func(*upstreamLoad)      { return func(l *upstreamLoad) { l.most = n } }
func onlyMovable(n int) func(*upstreamLoad) { return func(l *upstreamLoad) { l.movable = n } }
func backup(l *upstreamLoad)                { l.backup = true }
func drained(l *upstreamLoad)               { l.closed = true }

func TestLevels(t *testing.T) {
	for name, test := range map[string]struct {
		loads []upstreamLoad
		want  []int
		level bool
	}{
		"nothing":                     {nil, []int{}, true},
		"no tunnels":                  {[]upstreamLoad{at(0), at(0)}, []int{0, 0}, true},
		"only one":                    {[]upstreamLoad{at(7)}, []int{7}, true},
		"one is new":                  {[]upstreamLoad{at(150), at(150), at(0)}, []int{100, 100, 100}, false},
		"the rest stays where it is":  {[]upstreamLoad{at(2), at(0), at(2)}, []int{2, 1, 1}, false},
		"and so it is level":          {[]upstreamLoad{at(1), at(2), at(1)}, []int{1, 2, 1}, true},
		"within the tolerance":        {[]upstreamLoad{at(105), at(95), at(100)}, []int{100, 100, 100}, true},
		"too many":                    {[]upstreamLoad{at(106), at(97), at(97)}, []int{100, 100, 100}, false},
		"too few":                     {[]upstreamLoad{at(103), at(103), at(94)}, []int{100, 100, 100}, false},
		"many full ones, one empty":   {slices.Concat(slices.Repeat([]upstreamLoad{at(100)}, 99), []upstreamLoad{at(0)}), slices.Repeat([]int{99}, 100), false},
		"by weight":                   {[]upstreamLoad{at(90), at(0, weighing(2))}, []int{30, 60}, false},
		"by weight, level":            {[]upstreamLoad{at(30), at(60, weighing(2))}, []int{30, 60}, true},
		"a new one has few places":    {[]upstreamLoad{at(100), at(100), at(0, atMost(10))}, []int{95, 95, 10}, false},
		"a new one is full":           {[]upstreamLoad{at(100), at(100), at(10, atMost(10))}, []int{100, 100, 10}, true},
		"a limit is exceeded":         {[]upstreamLoad{at(15, atMost(10)), at(15)}, []int{15, 15}, true},
		"what exceeds it may go":      {[]upstreamLoad{at(15, atMost(10)), at(1)}, []int{8, 8}, false},
		"drained ones are out of it":  {[]upstreamLoad{at(150, drained), at(20), at(0), at(0, drained)}, []int{150, 10, 10, 0}, false},
		"all but one are drained":     {[]upstreamLoad{at(50, drained), at(150)}, []int{50, 150}, true},
		"backups wait":                {[]upstreamLoad{at(50), at(50), at(0, backup)}, []int{50, 50, 0}, true},
		"backups are emptied":         {[]upstreamLoad{at(0), at(90, backup), at(30)}, []int{60, 0, 60}, false},
		"but not if nothing is free":  {[]upstreamLoad{at(0, drained), at(90, backup), at(30, atMost(30))}, []int{0, 90, 30}, true},
		"or too little":               {[]upstreamLoad{at(0, atMost(20)), at(90, backup), at(0, backup)}, []int{20, 35, 35}, false},
		"only backups":                {[]upstreamLoad{at(90, backup), at(0, backup)}, []int{45, 45}, false},
		"others' tunnels count":       {[]upstreamLoad{at(100, onlyMovable(60)), at(20), at(0)}, []int{40, 40, 40}, false},
		"and stay":                    {[]upstreamLoad{at(100, onlyMovable(0)), at(60), at(0)}, []int{100, 30, 30}, false},
		"also on backups":             {[]upstreamLoad{at(10), at(60, backup, onlyMovable(20))}, []int{30, 40}, false},
		"an empty one of others only": {[]upstreamLoad{at(80, onlyMovable(0)), at(0)}, []int{80, 0}, true},
	} {
		t.Run(name, func(t *testing.T) {
			v := levelsOf(test.loads)
			if !slices.Equal(v.want, test.want) || v.isLevel() != test.level {
				t.Errorf("want %v (level: %v), got %v (level: %v)", test.want, test.level, v.want, v.isLevel())
			}
		})
	}
}

func TestClosings(t *testing.T) {
	for name, test := range map[string]struct {
		loads []upstreamLoad
		n     int
		want  []int
	}{
		"none":                     {[]upstreamLoad{at(150), at(150), at(0)}, 0, []int{0, 0, 0}},
		"in turns":                 {[]upstreamLoad{at(150), at(150), at(0)}, 21, []int{11, 10, 0}},
		"from the fullest":         {[]upstreamLoad{at(160), at(140), at(0)}, 20, []int{20, 0, 0}},
		"until the next is full":   {[]upstreamLoad{at(160), at(140), at(0)}, 30, []int{25, 5, 0}},
		"not more than too many":   {[]upstreamLoad{at(150), at(150), at(0)}, 1000, []int{50, 50, 0}},
		"by weight":                {[]upstreamLoad{at(100), at(150, weighing(2)), at(0)}, 20, []int{20, 0, 0}},
		"not at drained ones":      {[]upstreamLoad{at(500, drained), at(10), at(0)}, 1000, []int{0, 5, 0}},
		"not what is others'":      {[]upstreamLoad{at(100, onlyMovable(10)), at(0)}, 1000, []int{10, 0}},
		"only for what is free":    {[]upstreamLoad{at(100), at(0, atMost(3))}, 1000, []int{3, 0}},
		"backups as others":        {[]upstreamLoad{at(0), at(30, backup)}, 10, []int{0, 10}},
		"nothing if nobody is low": {[]upstreamLoad{at(51), at(50)}, 1000, []int{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := levelsOf(test.loads).closings(test.n); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// simulation is a pool whose clients come back where least_conn sends them.
type simulation struct {
	tb     testing.TB
	loads  []upstreamLoad
	random *rand.Rand
}

func newSimulation(tb testing.TB, seed uint64) *simulation {
	tb.Helper()
	s := &simulation{tb: tb, random: rand.New(rand.NewPCG(seed, 7))}
	size := 1 << s.random.IntN(10) // of the numbers of tunnels
	for range 1 + s.random.IntN(8) {
		l := upstreamLoad{weight: 1}
		if s.random.IntN(3) > 0 { // the others are new
			l.tunnels = s.random.IntN(1 + size)
			l.movable = l.tunnels
			if s.random.IntN(3) == 0 {
				l.movable -= s.random.IntN(1 + l.tunnels)
			}
		}
		if s.random.IntN(3) == 0 {
			l.weight = float64(1 + s.random.IntN(5))
		}
		if s.random.IntN(4) == 0 {
			l.most = 1 + s.random.IntN(size)
		}
		l.backup = s.random.IntN(5) == 0
		l.closed = s.random.IntN(5) == 0
		s.loads = append(s.loads, l)
	}
	return s
}

func (s *simulation) levels() *levels { return levelsOf(slices.Clone(s.loads)) }

// eligible are those that may get another tunnel: backups only if no other one may.
func (s *simulation) eligible() (some []*upstreamLoad) {
	for _, backup := range []bool{false, true} {
		for i := range s.loads {
			l := &s.loads[i]
			if l.backup == backup && !l.closed && (l.most == 0 || l.tunnels < l.most) {
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
func (s *simulation) leastConn() *upstreamLoad {
	var best []*upstreamLoad
	for _, l := range s.eligible() {
		switch {
		case len(best) == 0 || float64(l.tunnels+1)*best[0].weight < float64(best[0].tunnels+1)*l.weight:
			best = []*upstreamLoad{l}
		case float64(l.tunnels+1)*best[0].weight == float64(best[0].tunnels+1)*l.weight:
			best = append(best, l)
		}
	}
	if len(best) == 0 {
		return nil
	}
	return best[s.random.IntN(len(best))]
}

// step closes tunnels and lets their clients come back.
func (s *simulation) step(v *levels, n int) (closed int) {
	s.tb.Helper()
	closings := v.closings(n)
	for i := range s.loads {
		k, l := closings[i], &s.loads[i]
		closed += k
		if k < 0 || k > v.excess(i) || k > l.movable || k > 0 && l.closed {
			s.tb.Fatalf("%d are closed at upstream %d of %+v, which should have %v", k, i, v.loads, v.want)
		}
		l.tunnels -= k
		l.movable -= k
	}
	if closed > n || closed > v.tooMany {
		s.tb.Fatalf("%d are closed, of %d that were asked for and %d too many", closed, n, v.tooMany)
	}
	for range closed {
		l := s.leastConn()
		if l == nil {
			s.tb.Fatalf("nobody takes what was closed at %v of %+v", closings, v.loads)
		}
		l.tunnels++
		l.movable++
	}
	return closed
}

// expectSense checks what should be, whatever there is.
func (s *simulation) expectSense(v *levels) {
	s.tb.Helper()
	tunnels, wanted, tooFew := 0, 0, 0
	for i, l := range v.loads {
		switch w := v.want[i]; {
		case l.closed && w != l.tunnels:
			s.tb.Fatalf("a drained upstream should have %d: %+v", w, v.loads)
		case w < l.least() || w > l.room():
			s.tb.Fatalf("upstream %d should have %d: %+v", i, w, v.loads)
		}
		tunnels, wanted = tunnels+l.tunnels, wanted+v.want[i]
		tooFew += max(0, v.want[i]-l.tunnels)
	}
	if tunnels != wanted || tooFew != v.tooMany {
		s.tb.Fatalf("%d tunnels should be %d, %d are too many and %d too few: %+v, %v",
			tunnels, wanted, v.tooMany, tooFew, v.loads, v.want)
	}
}

// expectLevel looks for a tunnel that would better be elsewhere, without what
// levelsOf says.
func (s *simulation) expectLevel() {
	s.tb.Helper()
	for _, from := range s.loads {
		tolerated := 1 + 2*levelTolerance*float64(from.tunnels)
		if from.closed || from.backup || float64(from.movable) <= tolerated {
			continue
		}
		for _, to := range s.eligible() {
			if to.backup {
				continue // then all others are full, and so stays what they have
			}
			// One more and one less are what cannot be divided.
			high := float64(from.tunnels-1) / from.weight
			low := float64(to.tunnels+1) / to.weight
			if low < high*(1-2*levelTolerance)-1 {
				s.tb.Fatalf("after all, %+v has too many, and %+v too few", from, to)
			}
		}
	}
}

func FuzzRebalancing(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed, 0.05+float64(seed%20)/20)
	}
	f.Fuzz(func(t *testing.T, seed uint64, share float64) {
		if !(share >= 1.0/maxRebalanceSteps && share <= 1) {
			share = 1.0 / maxRebalanceSteps
		}
		s := newSimulation(t, seed)
		v := s.levels()
		s.expectSense(v)
		worst := v.tooMany
		for range maxRebalanceSteps {
			if v.isLevel() {
				break
			}
			before := v.unevenness()
			s.step(v, int(math.Ceil(share*float64(worst))))
			v = s.levels()
			s.expectSense(v)
			if v.unevenness() >= before {
				break // what is left cannot be divided
			}
		}
		s.expectLevel()
	})
}

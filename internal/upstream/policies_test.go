package upstream

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// share is an upstream for the balancer: its weight and its tunnels.
type share struct{ weight, tunnels int }

func endpointsWith(loads ...share) []*Endpoint {
	pool := make([]*Endpoint, len(loads))
	for i, l := range loads {
		pool[i] = &Endpoint{Server: &Server{Weight: l.weight}, Host: &Host{tunnels: l.tunnels}}
	}
	return pool
}

// slotsOf are the slots of endpoints that stand in no pool.
func slotsOf(pool []*Endpoint) []Slot {
	slots := make([]Slot, len(pool))
	for i, e := range pool {
		slots[i] = e.slotLocked()
	}
	return slots
}

// pickFrom has a policy pick one of some endpoints that all have room.
func pickFrom(p Policy, pool []*Endpoint, random func(int) int) *Endpoint {
	slots := slotsOf(pool)
	defer keepLocked(slots)
	return pool[p.Pick(slots, 0, random)]
}

// eligible are the endpoints that may be chosen by who has tried some.
func eligible(pool []*Endpoint, tried []*Server) (some []*Endpoint) {
	c, slots := &Candidates{pool: new(Pool), tried: tried}, slotsOf(pool)
	c.hideTried(slots)
	of, ok := firstOf(classesOf(slots))
	for i, e := range pool {
		if ok && slots[i].class == of {
			some = append(some, e)
		}
	}
	return some
}

// seeded returns a source of random numbers that is the same in every run.
func seeded() func(int) int { return rand.New(rand.NewPCG(1, 2)).IntN }

func always(n int) func(int) int { return func(limit int) int { return min(n, limit-1) } }

func policies() map[string]Policy {
	return map[string]Policy{
		"least_conn":      LeastConn{},
		"round_robin":     RoundRobin{},
		"random_choose 2": &RandomChoose{Choices: 2},
		"random_choose 5": &RandomChoose{Choices: 5},
	}
}

func TestPoliciesPickTheOnlyOne(t *testing.T) {
	pool := endpointsWith(share{3, 1000})
	for name, p := range policies() {
		for range 3 {
			if got := pickFrom(p, pool, seeded()); got != pool[0] {
				t.Errorf("%s picked %+v", name, got)
			}
		}
	}
}

func TestEligible(t *testing.T) {
	type candidate struct{ tried, full, backup, doubtful, failing bool }
	for name, test := range map[string]struct {
		pool []candidate
		want []int
	}{
		"all":                          {[]candidate{{}, {}, {}}, []int{0, 1, 2}},
		"none":                         {nil, nil},
		"tried ones are out":           {[]candidate{{}, {tried: true}, {}}, []int{0, 2}},
		"full ones are out":            {[]candidate{{full: true}, {}, {full: true}}, []int{1}},
		"all are full":                 {[]candidate{{full: true}, {full: true}}, nil},
		"all were tried":               {[]candidate{{tried: true}, {tried: true}}, nil},
		"backups wait":                 {[]candidate{{backup: true}, {}, {backup: true}}, []int{1}},
		"backups when all were tried":  {[]candidate{{tried: true}, {backup: true}, {backup: true}}, []int{1, 2}},
		"backups when all are full":    {[]candidate{{backup: true}, {full: true}}, []int{0}},
		"only backups":                 {[]candidate{{backup: true}, {backup: true}}, []int{0, 1}},
		"doubtful ones are out":        {[]candidate{{doubtful: true}, {}, {backup: true}}, []int{1}},
		"all are doubtful":             {[]candidate{{doubtful: true}, {backup: true}, {doubtful: true}}, []int{0, 2}},
		"doubt is no room":             {[]candidate{{doubtful: true}, {full: true}}, nil},
		"backups come before doubt":    {[]candidate{{doubtful: true}, {full: true}, {backup: true}}, []int{2}},
		"doubt when others were tried": {[]candidate{{doubtful: true}, {tried: true}}, []int{0}},
		"doubtful backups":             {[]candidate{{full: true}, {backup: true, doubtful: true}, {backup: true}}, []int{2}},
		"failing ones are the last":    {[]candidate{{failing: true}, {backup: true, doubtful: true}}, []int{1}},
		"failing ones before nobody":   {[]candidate{{failing: true, backup: true}, {failing: true}, {full: true}}, []int{1}},
		"backups can be full or tried": {[]candidate{{full: true}, {backup: true, full: true}, {backup: true, tried: true}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var pool, want []*Endpoint
			var tried []*Server
			for _, up := range test.pool {
				e := &Endpoint{Server: &Server{Weight: 1, Backup: up.backup, MaxTunnels: 2}, Host: &Host{tunnels: 1}}
				e.doubtful, e.failing = up.doubtful, up.failing
				if up.full {
					e.Host.tunnels = 2
				}
				if up.tried {
					tried = append(tried, e.Server)
				}
				pool = append(pool, e)
			}
			for _, i := range test.want {
				want = append(want, pool[i])
			}
			if got := eligible(pool, tried); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestLeastConnPicksTheLeastLoaded(t *testing.T) {
	for name, test := range map[string]struct {
		loads []share
		want  int
	}{
		"fewest tunnels":                     {[]share{{1, 2}, {1, 1}, {1, 3}}, 1},
		"the first of all":                   {[]share{{1, 0}, {1, 1}}, 0},
		"twice the weight, fewer than twice": {[]share{{1, 2}, {2, 3}}, 1},
		"twice the weight, more than twice":  {[]share{{1, 2}, {2, 6}}, 0},
		"empty ones by weight":               {[]share{{1, 0}, {3, 0}, {2, 0}}, 1},
		"a heavy one still gets the next":    {[]share{{1, 0}, {10, 8}}, 1},
		"until it has its share":             {[]share{{1, 0}, {10, 10}}, 0},
		"no overflow":                        {[]share{{MaxWeight, math.MaxInt32 - 1}, {1, math.MaxInt32 - 1}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			pool := endpointsWith(test.loads...)
			if got := slices.Index(pool, pickFrom(LeastConn{}, pool, seeded())); got != test.want {
				t.Errorf("picked %d, want %d", got, test.want)
			}
		})
	}
}

func TestLeastConnIsNeverBeaten(t *testing.T) {
	random := seeded()
	for range 2000 {
		pool := endpointsWith(make([]share, 1+random(8))...)
		for _, e := range pool {
			e.Server.Weight, e.Host.tunnels = 1+random(4), random(10)
		}
		for range 20 {
			picked := pickFrom(LeastConn{}, pool, random)
			for _, e := range pool {
				// Fractions are compared by cross-multiplication.
				if (e.Host.tunnels+1)*picked.Server.Weight < (picked.Host.tunnels+1)*e.Server.Weight {
					t.Fatalf("picked %+v %+v, but %+v %+v is less loaded",
						picked.Server, picked.Host, e.Server, e.Host)
				}
			}
			picked.Host.tunnels++
		}
	}
}

func TestLeastConnBreaksTiesAtRandom(t *testing.T) {
	pool := endpointsWith(share{1, 1}, share{1, 0}, share{1, 0}, share{1, 2}, share{1, 0})
	if got := slices.Index(pool, pickFrom(LeastConn{}, pool, always(0))); got != 1 {
		t.Errorf("picked %d, want the first of the equal ones, 1", got)
	}
	if got := slices.Index(pool, pickFrom(LeastConn{}, pool, always(math.MaxInt))); got != 4 {
		t.Errorf("picked %d, want the last of the equal ones, 4", got)
	}
	const picks = 30_000
	random, counts := seeded(), make(map[int]int)
	for range picks {
		counts[slices.Index(pool, pickFrom(LeastConn{}, pool, random))]++
	}
	for _, i := range []int{1, 2, 4} {
		if got := counts[i]; got < picks/3*9/10 || got > picks/3*11/10 {
			t.Errorf("%d was picked %d times of %d, want about a third: %v", i, got, picks, counts)
		}
	}
	if len(counts) != 3 {
		t.Errorf("picked from %v, want only the equal ones", counts)
	}
}

// sharesAfter picks n times, leaving each tunnel open.
func sharesAfter(n int, p Policy, pool []*Endpoint, random func(int) int) []int {
	for range n {
		pickFrom(p, pool, random).Host.tunnels++
	}
	var shares []int
	for _, e := range pool {
		shares = append(shares, e.Host.tunnels)
	}
	return shares
}

func TestSharesFollowWeights(t *testing.T) {
	for name, p := range map[string]Policy{"least_conn": LeastConn{}, "round_robin": RoundRobin{}} {
		pool := endpointsWith(share{5, 0}, share{1, 0}, share{3, 0}, share{1, 0})
		for round := 1; round <= 50; round++ {
			got, want := sharesAfter(10, p, pool, seeded()), []int{5 * round, round, 3 * round, round}
			if !slices.Equal(got, want) {
				t.Fatalf("%s: shares are %v after %d picks, want %v", name, got, 10*round, want)
			}
		}
	}
}

func TestRoundRobinSequence(t *testing.T) {
	for name, test := range map[string]struct {
		weights []share
		want    string
	}{
		"equal":      {[]share{{1, 0}, {1, 0}, {1, 0}}, "abcabcabc"},
		"5:1:1":      {[]share{{5, 0}, {1, 0}, {1, 0}}, "aabacaaaabacaa"},
		"3:2:1":      {[]share{{3, 0}, {2, 0}, {1, 0}}, "abacbaabacba"},
		"1:2":        {[]share{{1, 0}, {2, 0}}, "babbab"},
		"load is no": {[]share{{1, 9}, {1, 0}}, "abab"},
	} {
		t.Run(name, func(t *testing.T) {
			pool := endpointsWith(test.weights...)
			var got []byte
			for range test.want {
				got = append(got, 'a'+byte(slices.Index(pool, pickFrom(RoundRobin{}, pool, nil))))
			}
			if string(got) != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestRoundRobinSharesAmongWhoIsEligible(t *testing.T) {
	pool := endpointsWith(share{2, 0}, share{1, 0}, share{1, 0})
	random := seeded()
	for range 1000 {
		some := slices.DeleteFunc(slices.Clone(pool), func(*Endpoint) bool { return random(4) == 0 })
		if len(some) > 0 {
			pickFrom(RoundRobin{}, some, nil)
		}
		var sum int64
		for _, e := range pool {
			sum += e.Server.current
		}
		if sum != 0 {
			t.Fatalf("the turns add up to %d, want 0", sum)
		}
	}
	// However it went before, from now on the shares are right within a round.
	got := sharesAfter(4000, RoundRobin{}, pool, nil)
	for i, want := range []int{2000, 1000, 1000} {
		if got[i] < want-20 || got[i] > want+20 {
			t.Errorf("shares are %v, want about 2000, 1000, 1000", got)
		}
	}
}

func TestRandomChooseComparesWhatItDraws(t *testing.T) {
	for name, test := range map[string]struct {
		choices int
		random  func(int) int
		want    int
	}{
		"the first two":        {2, always(0), 1},
		"the last two":         {2, always(math.MaxInt), 3},
		"the first three":      {3, always(0), 2},
		"all":                  {4, always(0), 3},
		"more than there are":  {100, seeded(), 3},
		"one twice is not one": {2, always(weightScale), 2}, // b, and of what is left c
	} {
		t.Run(name, func(t *testing.T) {
			pool := endpointsWith(share{1, 3}, share{1, 2}, share{1, 1}, share{1, 0})
			p := &RandomChoose{Choices: test.choices}
			if got := slices.Index(pool, pickFrom(p, pool, test.random)); got != test.want {
				t.Errorf("picked %d, want %d", got, test.want)
			}
		})
	}
}

func TestRandomChooseAvoidsTheMostLoaded(t *testing.T) {
	pool := endpointsWith(share{1, 0}, share{1, 9}, share{1, 1}, share{1, 2})
	p, random, seen := &RandomChoose{Choices: 2}, seeded(), make(map[int]bool)
	for range 1000 {
		seen[slices.Index(pool, pickFrom(p, pool, random))] = true
	}
	if seen[1] || len(seen) != 3 {
		t.Errorf("picked %v, want all but 1", seen)
	}
}

func TestRandomChooseDrawsByWeight(t *testing.T) {
	const draws = 40_000
	pool := endpointsWith(share{5, 0}, share{2, 0}, share{1, 0})
	random, counts := seeded(), make([]int, len(pool))
	for i := range draws {
		p := &RandomChoose{draws: uint64(i + 1)}
		counts[p.draw(slotsOf(pool), 0, int64(random(8*weightScale)))]++
	}
	for i, e := range pool {
		if want := draws / 8 * e.Server.Weight; counts[i] < want*9/10 || counts[i] > want*11/10 {
			t.Errorf("draws are %v, want about %d of %d", counts, want, i)
		}
	}
}

func TestRandomChooseBalances(t *testing.T) {
	pool := endpointsWith(share{2, 0}, share{1, 0}, share{1, 0}, share{2, 0})
	got := sharesAfter(6000, &RandomChoose{Choices: 2}, pool, seeded())
	for i, want := range []int{2000, 1000, 1000, 2000} {
		if got[i] < want-100 || got[i] > want+100 {
			t.Errorf("shares are %v, want about 2000, 1000, 1000, 2000", got)
		}
	}
}

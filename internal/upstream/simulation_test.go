package upstream

import (
	"os"
	"reflect"
	"testing"
	"time"
)

// fault is a way of being bad.
type fault struct {
	name string
	of   func() temper
	// most is how many clients one that is so may cost, and where it is on a coin's side and
	// silent that takes time.
	most int
}

// steadily is a temper that does not depend on when the scene has begun.
func steadily(is temper) func() temper { return func() temper { return is } }

// What a bad upstream costs: max_fails - 1 clients until others are asked. Of those who come to
// a silent one before it is found out, who has less patience than it takes to be late is lost,
// too. What is good again in between is lost anew.
var faults = []fault{
	{"refuses", steadily(refuses), 8},
	{"is silent", steadily(isSilent), 12},
	{"refuses half", steadily(half(refuses)), 40},
	{"refuses in turn", func() temper { return inTurn(refuses, time.Minute) }, 30},
	{"resets", steadily(resetsAll), 16},
}

// pools are how many upstreams there are, how many are bad, and how many clients a second it
// takes until these are found out in time. What is lost for it is at most 2 percent then.
var pools = []struct {
	upstreams, bad int
	rate           float64
}{{2, 1, 2}, {3, 1, 2}, {3, 1, 20}, {10, 5, 20}, {100, 1, 2}, {100, 1, 20}, {100, 50, 60}}

// seeds are those of the scenes: more of them, and all pools, if there is time.
func seeds() []uint64 {
	if os.Getenv("LONG") != "" {
		return []uint64{1, 2, 3, 4, 5}
	}
	return []uint64{1}
}

// isLong reports whether so many clients and upstreams take long, and there is no time for that.
func isLong(upstreams int, rate float64) bool {
	return rate*float64(upstreams) > 200 && os.Getenv("LONG") == ""
}

// tell writes a row of the table of what has come of scenes.
func (o *outcome) tell(t *testing.T, sc scene) {
	t.Helper()
	least, largest := o.spread(sc.bad)
	t.Logf("%-15s %2d of %3d bad, %2.0f/s, %3.0f/s hostile: lost %6.2f%%, at most %4d by one, %4d asked, wrongly %d for %v, shares %.2f to %.2f, load %.2f",
		sc.rule, sc.bad, sc.upstreams, sc.rate, sc.attacks, 100*o.lostShare(), o.mostLostBy(), o.asked, o.wrongly, o.longest, least, largest, o.heaviest)
}

func TestSimulatedFaultsCostFewClients(t *testing.T) {
	for _, f := range faults {
		for _, p := range pools {
			if isLong(p.upstreams, p.rate) {
				continue
			}
			for _, seed := range seeds() {
				sc := scene{rule: witnesses, upstreams: p.upstreams, bad: p.bad, temper: f.of, rate: p.rate, seed: seed}
				t.Run(f.name, func(t *testing.T) {
					play(t, sc, func(t *testing.T, o *outcome) {
						if o.tell(t, sc); o.lostShare() > 0.02 || o.mostLostBy() > f.most {
							t.Errorf("lost %.2f%% of the clients, and %d by one upstream; want at most 2%%, and %d",
								100*o.lostShare(), o.mostLostBy(), f.most)
						}
						expectFair(t, sc, o)
					})
				})
			}
		}
	}
}

// expectFair checks that good upstreams are treated as such.
func expectFair(t *testing.T, sc scene, o *outcome) {
	t.Helper()
	if o.wrongly > 0 {
		t.Errorf("good upstreams were doubtful %d times, for %v", o.wrongly, o.longest)
	}
	// With few tunnels for each, one more makes much of a difference.
	each := sc.rate * tunnelLife.Seconds() / float64(sc.upstreams-sc.bad)
	if o.heaviest > 1.1+6/each {
		t.Errorf("one has %.2f times as many tunnels as the mean of %.0f", o.heaviest, each)
	}
}

// What the rule is better than.
func TestSimulatedRulesCompared(t *testing.T) {
	for _, f := range append([]fault{
		{"is silent to half", steadily(half(isSilent)), 0}, {"does not know what 30% want", nil, 0},
	}, faults...) {
		for _, rule := range []rule{nothingFollows, threeInATime, witnesses} {
			sc := scene{rule: rule, upstreams: 3, bad: 1, temper: f.of, rate: 2, seed: 1}
			if f.of == nil {
				sc.newer = 0.3
			}
			t.Run(f.name, func(t *testing.T) {
				play(t, sc, func(t *testing.T, o *outcome) {
					o.tell(t, sc)
					if rule == witnesses && o.lostShare() > 0.02 || rule != witnesses && o.lostShare() < 0.05 {
						t.Errorf("lost %.2f%% of the clients; want at most 2%% with witnesses, and at least 5%% else", 100*o.lostShare())
					}
				})
			})
		}
	}
}

// hostilities are what an attacker may ask for, wherever it goes.
var hostilities = map[string]scene{
	"a refused request":             {hostile: refuses, leaves: time.Minute},
	"a silent request":              {hostile: isSilent, leaves: time.Minute},
	"a silent request, and leaves":  {hostile: isSilent, leaves: 6 * time.Second},
	"a silent request, left early":  {hostile: isSilent, leaves: 4 * time.Second},
	"a frame that the reset is for": {hostile: resetsAll, leaves: time.Minute},
}

func TestSimulatedAttackersSteerNobody(t *testing.T) {
	for name, h := range hostilities {
		for _, networks := range []int{1, 200} {
			if networks > 1 && h.hostile(&visitor{random: seededBy(1, 1)}).resets {
				continue // many networks convict by resets, as there is no witness
			}
			for _, attacks := range []float64{1, 10} {
				for _, seed := range seeds() {
					sc := h
					sc.rule, sc.upstreams, sc.rate, sc.attacks, sc.networks, sc.seed = witnesses, 3, 3, attacks, networks, seed
					t.Run(name, func(t *testing.T) {
						play(t, sc, func(t *testing.T, o *outcome) {
							if o.tell(t, sc); o.lost > 0 {
								t.Errorf("%d clients are lost", o.lost)
							}
							expectFair(t, sc, o)
						})
					})
				}
			}
		}
	}
}

// The same attackers where one is bad for five minutes: they neither keep it from being found
// out, nor from being trusted again.
func TestSimulatedAttackersHideNothing(t *testing.T) {
	for name, h := range hostilities {
		for _, seed := range seeds() {
			sc := h
			sc.rule, sc.upstreams, sc.bad, sc.temper = witnesses, 3, 1, steadily(refuses)
			sc.rate, sc.attacks, sc.networks, sc.seed = 3, 3, 1, seed
			sc.from, sc.heal = time.Minute, simulated/2
			t.Run(name, func(t *testing.T) {
				play(t, sc, func(t *testing.T, o *outcome) {
					if o.tell(t, sc); o.lost > 20 {
						t.Errorf("%d clients are lost", o.lost)
					}
					expectFair(t, sc, o)
					if o.trusted == 0 || o.trusted > sc.heal+3*failDuration {
						t.Errorf("it is trusted again after %v, healed after %v", o.trusted, sc.heal)
					}
				})
			})
		}
	}
}

// Some clients want what one of two releases does not know. That moves newcomers to the other
// one, but costs few.
func TestSimulatedReleasesAreMixed(t *testing.T) {
	for _, p := range pools {
		if p.upstreams > 3 {
			continue // that takes long: what half of the pool refuses may be wanted by few
		}
		for _, seed := range seeds() {
			sc := scene{rule: witnesses, upstreams: p.upstreams, bad: p.bad, newer: 0.3, rate: p.rate, seed: seed}
			t.Run("", func(t *testing.T) {
				play(t, sc, func(t *testing.T, o *outcome) {
					if o.tell(t, sc); o.lostShare() > 0.02 {
						t.Errorf("lost %.2f%% of the clients", 100*o.lostShare())
					}
					expectFair(t, sc, o)
				})
			})
		}
	}
}

// restarting has upstreams refuse for a while, one right after the other.
func restarting() func() temper {
	const takes = 8 * time.Second // less than the pause before a trial
	from := time.Minute
	return func() temper {
		began, mine := time.Now(), from
		from += takes
		return func(v *visitor) reply {
			if passed := time.Since(began); passed >= mine && passed < mine+takes {
				return refuses(v)
			}
			return works(v)
		}
	}
}

func TestSimulatedRestartsCostFew(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		for _, seed := range seeds() {
			sc := scene{rule: witnesses, upstreams: n, bad: n, temper: restarting(), rate: 10, seed: seed}
			t.Run("", func(t *testing.T) {
				play(t, sc, func(t *testing.T, o *outcome) {
					if o.tell(t, sc); o.mostLostBy() >= maxFails {
						t.Errorf("a restart has cost %d clients, want at most %d", o.mostLostBy(), maxFails-1)
					}
				})
			})
		}
	}
}

func TestSimulationsAreTheSameInEachRun(t *testing.T) {
	sc := scene{rule: witnesses, upstreams: 10, bad: 5, temper: steadily(half(isSilent)), rate: 5, seed: 7}
	outcomes := make(chan *outcome, 2)
	t.Run("", func(t *testing.T) {
		for range cap(outcomes) {
			t.Run("", func(t *testing.T) { play(t, sc, func(_ *testing.T, o *outcome) { outcomes <- o }) })
		}
	})
	if one, other := <-outcomes, <-outcomes; !reflect.DeepEqual(one, other) {
		t.Errorf("got %+v, and then %+v", one, other)
	}
}

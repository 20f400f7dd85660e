package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// node is an upstream of the tests.
type node struct {
	seed            uint64
	weight, tunnels int
	gone            bool
}

// nodes returns n upstreams with the weights given, in turn.
func nodes(n int, weights ...int) []node {
	all := make([]node, n)
	for i := range all {
		all[i] = node{seed: SeedOf(fmt.Sprintf("10.0.%d.%d:8080", i>>8, i&255)), weight: weights[i%len(weights)]}
	}
	return all
}

func firstOf(key uint64, among []node) int {
	r := RankOf(key)
	for i := range among {
		if n := &among[i]; !n.gone && r.MayWin(n.seed, n.weight) {
			r.Offer(i, n.seed, n.weight)
		}
	}
	return r.First()
}

// TestRankIsTheOrderOfItsFormula compares with the formula, as it is written, and
// takes the following places too, by leaving out what came before.
func TestRankIsTheOrderOfItsFormula(t *testing.T) {
	for _, weights := range [][]int{{1}, {3}, {1, 1, 2, 4}, {1, 256}, {5, 7, 1, 1000}} {
		all := nodes(20, weights...)
		for k := range 2000 {
			key := Hash(fmt.Sprint("room ", k))
			score := func(n node) float64 {
				return float64(n.weight) / -math.Log(1-unit(mixed(key^n.seed)))
			}
			want := slices.Clone(all)
			slices.SortFunc(want, func(a, b node) int {
				if score(a) > score(b) {
					return -1
				}
				return 1
			})
			left := slices.Clone(all)
			for place := range 3 {
				got := firstOf(key, left)
				if left[got].seed != want[place].seed {
					t.Fatalf("weights %v, key %d, place %d: got %v, want %v", weights, k, place, left[got], want[place])
				}
				left[got].gone = true
			}
		}
	}
}

// TestRankIsTheSameForEver: other numbers would move all clients of a fleet that is
// upgraded node by node.
func TestRankIsTheSameForEver(t *testing.T) {
	if got := Hash("room 1"); got != 0x5bbb46ceb62b0461 {
		t.Errorf("Hash: got %#x", got)
	}
	if got := SeedOf("10.0.0.1:8080"); got != 0x523d17b1b600395e {
		t.Errorf("SeedOf: got %#x", got)
	}
	if Hash("x") != Hash([]byte("x")) || Hash("x") == SeedOf("x") {
		t.Error("a key and a seed are the same, or text and bytes are not")
	}
	var got []int
	for k := range 10 {
		got = append(got, firstOf(Hash(fmt.Sprint(k)), nodes(100, 1, 1, 2, 4)))
	}
	if want := []int{31, 2, 45, 54, 88, 43, 5, 61, 56, 7}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRankOfNothing(t *testing.T) {
	if r := RankOf(1); r.First() != -1 {
		t.Errorf("got %d", r.First())
	}
}

func TestRankDoesNotGoByTheOrderOfOffers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	all := nodes(50, 1, 2, 2, 7)
	for range 2000 {
		key := random.Uint64()
		want := all[firstOf(key, all)].seed
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if got := all[firstOf(key, all)].seed; got != want {
			t.Fatalf("key %#x: got %#x, want %#x", key, got, want)
		}
	}
}

// TestRankMovesAsLittleAsPossible lets upstreams join, leave and change their
// weights: only keys of these move, or to these.
func TestRankMovesAsLittleAsPossible(t *testing.T) {
	const keys = 20_000
	random := rand.New(rand.NewPCG(3, 4))
	all := nodes(40, 1, 1, 2, 4)
	for i := range all {
		all[i].gone = i%3 == 0
	}
	for range 10 {
		before := slices.Clone(all)
		changed := random.IntN(len(all))
		var heavier bool
		switch n := &all[changed]; {
		case n.gone, random.IntN(2) == 0:
			n.gone = !n.gone
			heavier = !n.gone
		default:
			n.weight *= 2
			heavier = true
		}
		moved, whole := 0, 0
		for i := range all {
			if !all[i].gone || !before[i].gone {
				whole += all[i].weight
			}
		}
		for range keys {
			key := random.Uint64()
			old, now := firstOf(key, before), firstOf(key, all)
			if old == now {
				continue
			}
			moved++
			if heavier && now != changed || !heavier && old != changed {
				t.Fatalf("upstream %d changed, and a key moved from %d to %d", changed, old, now)
			}
		}
		most := float64(keys) * float64(all[changed].weight) / float64(whole)
		if float64(moved) > most+5*math.Sqrt(most) {
			t.Errorf("%d keys moved, which should be %.0f at most", moved, most)
		}
	}
}

// TestRankGoesByWeight: also for keys and names that differ by a number only.
func TestRankGoesByWeight(t *testing.T) {
	const keys = 200_000
	for _, weights := range [][]int{{1}, {1, 1, 2, 4}, {1, 256}} {
		all := nodes(16, weights...)
		sum := 0
		for _, n := range all {
			sum += n.weight
		}
		got := make([]int, len(all))
		for k := range keys {
			got[firstOf(Hash(fmt.Sprint("room-", k)), all)]++
		}
		for i, n := range all {
			want := float64(keys) * float64(n.weight) / float64(sum)
			if off := math.Abs(float64(got[i]) - want); off > 5*math.Sqrt(want) {
				t.Errorf("weights %v, upstream %d: got %d keys, want about %.0f", weights, i, got[i], want)
			}
		}
	}
}

func BenchmarkRank(b *testing.B) {
	for name, weights := range map[string][]int{"equal": {1}, "weighted": {1, 1, 2, 4}, "all differ": {3, 5, 7, 11, 13, 17, 19, 23}} {
		b.Run(name, func(b *testing.B) {
			all := nodes(1000, weights...)
			b.ReportAllocs()
			for key := uint64(0); b.Loop(); key++ {
				firstOf(mixed(key), all)
			}
		})
	}
}

package balance

import "math"

// Hash returns a number for a text that is the same in every process: of a key,
// or of what an upstream is known by.
func Hash[T string | []byte](text T) uint64 {
	h := uint64(0xcbf29ce484222325) // FNV-1a, whose last bytes mix too little alone
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 0x100000001b3
	}
	return mixed(h)
}

// mixed spreads each bit of x over all of them (the finalizer of SplitMix64).
func mixed(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// SeedOf returns the seed of an upstream for Rank. It differs from the Hash of the
// same text, as a key may be an upstream's name.
func SeedOf(spelling string) uint64 { return mixed(Hash(spelling) + 0x9e3779b97f4a7c15) }

// Rank finds the first in the order that weighted rendezvous hashing gives a
// key, of the upstreams that it is offered. The order is the same wherever it is
// asked for, and for any order of the offers; that one joins, leaves or gets
// another weight changes no other's place in relation to each other. So the
// next in order is the first of the others.
//
// The order is by weight / -ln(u), where u, in (0, 1), is a hash of the key and
// the upstream. What is kept and compared is the reciprocal, with v = 1 - u.
type Rank struct {
	key   uint64
	first int
	// hash, weight and cost are those of the first.
	hash   uint64
	weight int
	cost   float64
}

// RankOf begins with no upstreams.
func RankOf(key uint64) Rank { return Rank{key: key, first: -1, cost: math.Inf(1)} }

// First returns the i of the first one that was offered, or -1 if there was none.
func (r *Rank) First() int { return r.first }

// MayWin reports whether an upstream has to be offered: most others are not the
// first for sure. It is for loops over many, so it is small, and takes no
// logarithm: as -ln(1-v) >= v, who loses by v alone has lost.
func (r *Rank) MayWin(seed uint64, weight int) bool {
	return unit(mixed(r.key^seed)) <= r.cost*float64(weight)
}

// Offer adds upstream i, whose weight is at least 1.
func (r *Rank) Offer(i int, seed uint64, weight int) {
	if hash := mixed(r.key ^ seed); r.before(hash, weight) {
		r.take(i, hash, weight)
	}
}

// before reports whether one comes before the first.
func (r *Rank) before(hash uint64, weight int) bool {
	if weight == r.weight {
		return hash < r.hash
	}
	return cost(hash, weight) < r.cost
}

func (r *Rank) take(i int, hash uint64, weight int) {
	r.first, r.hash, r.weight, r.cost = i, hash, weight, cost(hash, weight)
}

// unit returns the v of a hash.
func unit(hash uint64) float64 { return (float64(int64(hash>>11)) + 0.5) * (1.0 / (1 << 53)) }

// cost is -ln(u) / weight.
func cost(hash uint64, weight int) float64 {
	return -math.Log1p(-unit(hash)) / float64(weight)
}

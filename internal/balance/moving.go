package balance

import (
	"cmp"
	"slices"
)

// Crowd is what a room has at an upstream.
type Crowd struct {
	Key uint64
	// From is the upstream's number in the Levels, and To that of the one that
	// Rooms.Without finds for the crowd.
	From, To int
	// Members may all be closed.
	Members int
}

// Crowds returns those of some that are to go, whole, for n tunnels to be closed now,
// the largest first. It changes the order of all.
//
// Who goes is too many where it is, and not where it comes to. If no crowd is so
// small, the smallest goes that leaves the two nearer to what they should have. So
// the tunnels are more level after each step, and steps come to an end. One may
// close more than n, by less than one crowd.
func (v *Levels) Crowds(all []Crowd, n int) []Crowd {
	all = slices.DeleteFunc(all, func(c Crowd) bool { return c.fits(v.excess(c.From), v.short(c.To)) >= 2 })
	if n <= 0 || len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b Crowd) int {
		return cmp.Or(cmp.Compare(b.Members, a.Members), cmp.Compare(a.Key, b.Key), cmp.Compare(a.From, b.From))
	})
	going := 0
	left := make(map[int]int) // of the excess or the shortage of an upstream, which has one of them
	for _, c := range all {
		excess, short := v.excess(c.From)-left[c.From], v.short(c.To)-left[c.To]
		if n <= 0 {
			break
		}
		if c.fits(excess, short) <= 1 {
			left[c.From] += c.Members
			left[c.To] += c.Members
			all[going] = c
			going++
			n -= c.Members
		}
	}
	if going == 0 {
		return all[len(all)-1:]
	}
	return all[:going]
}

// short is how many tunnels an upstream should have in addition.
func (v *Levels) short(i int) int { return max(0, v.want[i]-v.loads[i].Tunnels) }

// fits returns which part of what may go and come a crowd is. At 2 nothing is gained.
func (c *Crowd) fits(excess, short int) float64 {
	least := min(excess, short)
	if least <= 0 || c.From == c.To {
		return 2
	}
	return float64(c.Members) / float64(least)
}

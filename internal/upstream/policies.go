package upstream

import "math"

// MaxWeight bounds weights, so that comparisons of loads are far from overflow.
const MaxWeight = 1 << 16

// compareLoad returns a negative number if one more tunnel would leave a less
// loaded than b for its weight, 0 if equally, else a positive one.
func compareLoad(a, b *Slot) int64 {
	return (int64(a.tunnels)+1)*int64(b.weight) - (int64(b.tunnels)+1)*int64(a.weight)
}

// LeastConn picks the endpoint with the fewest live tunnels for its weight,
// and among equals one at random.
type LeastConn struct{}

// Pick implements Policy.
func (LeastConn) Pick(slots []Slot, of class, random func(int) int) int {
	// In a pool that is balanced all are equal, so a random number for each of them
	// would take most of the time. Instead, equals are counted, and without a branch, as
	// nothing can foresee which ones are equal.
	least := firstWith(slots, of)
	tunnels, weight, equals := int64(slots[least].tunnels)+1, int64(slots[least].weight), 0
	for i := least; i < len(slots); i++ {
		s := &slots[i]
		if s.class != of {
			continue
		}
		// As in compareLoad, but with what belongs to the best in registers.
		t, w := int64(s.tunnels)+1, int64(s.weight)
		mine, best := t*weight, tunnels*w
		if mine < best {
			least, tunnels, weight, equals = i, t, w, 1
			continue
		}
		equals += isEqual(mine, best)
	}
	if equals == 1 {
		return least
	}
	for left := random(equals); ; least++ {
		if s := &slots[least]; s.class == of {
			left -= isEqual((int64(s.tunnels)+1)*weight, tunnels*int64(s.weight))
		}
		if left < 0 {
			return least
		}
	}
}

// firstWith returns the first slot of a class. There is one.
func firstWith(slots []Slot, of class) int {
	i := 0
	for slots[i].class != of {
		i++
	}
	return i
}

func isEqual(a, b int64) (is int) {
	if a == b {
		is = 1
	}
	return is
}

// First picks the first endpoint that there is.
type First struct{}

// Pick implements Policy.
func (First) Pick(slots []Slot, of class, _ func(int) int) int { return firstWith(slots, of) }

// RoundRobin takes turns by weight, spread out: the smooth weighted round
// robin of nginx.
type RoundRobin struct{}

// Pick implements Policy.
func (RoundRobin) Pick(slots []Slot, of class, _ func(int) int) int {
	best := -1
	var total int64
	for i := range slots {
		s := &slots[i]
		if s.class != of {
			continue
		}
		s.current += int64(s.weight)
		total += int64(s.weight)
		if best < 0 || s.current > slots[best].current {
			best = i
		}
	}
	slots[best].current -= total
	return best
}

// RandomChoose draws some endpoints at random, by weight, and takes the one
// with the fewest tunnels for its weight: the power of two choices.
type RandomChoose struct {
	Choices int
	draws   uint64 // guarded by the table's lock; counts picks
}

// Pick implements Policy.
func (p *RandomChoose) Pick(slots []Slot, of class, random func(int) int) int {
	p.draws++
	total, n := int64(0), 0
	for i := range slots {
		if s := &slots[i]; s.class == of {
			total += int64(s.weight)
			n++
		}
	}
	best := -1
	for range min(p.Choices, n) {
		i := p.draw(slots, of, below(total, random))
		s := &slots[i]
		s.drawn = p.draws
		total -= int64(s.weight)
		if best < 0 || compareLoad(s, &slots[best]) < 0 {
			best = i
		}
	}
	return best
}

// below returns a number in [0, n), also where an int has 32 bits.
func below(n int64, random func(int) int) int64 {
	if n <= math.MaxInt32 {
		return int64(random(int(n)))
	}
	const steps = 1 << 30
	return int64(float64(n) / steps * float64(random(steps)))
}

// draw returns the slot at which a sum of weights is reached, of those that
// this pick has not drawn yet.
func (p *RandomChoose) draw(slots []Slot, of class, left int64) int {
	for i := range slots {
		s := &slots[i]
		if s.class != of || s.drawn == p.draws {
			continue
		}
		if left -= int64(s.weight); left < 0 {
			return i
		}
	}
	panic("the weights are less than their sum")
}

package websocketproxy

import (
	"slices"
	"time"
)

// A policy picks one of the endpoints that may get another tunnel, or nil if
// there are none. It may change their order. Its caller holds hosts.mu and
// reserves what it returns, so the choice and its count are one step. random
// returns a number in [0, n).
type policy interface {
	pick(eligible []*endpoint, random func(n int) int) *endpoint
}

// classes is how many kinds of endpoints there are to choose from, one after
// another.
const classes = 4

// class tells when e is chosen: only if there is none of a lower class. Backups
// come after others, and what passive checks have found failing after
// everything else, so that these never leave a pool without upstreams.
func (e *endpoint) class() int {
	class := 0
	if e.slot.backup {
		class = 1
	}
	if e.failing {
		class += 2
	}
	return class
}

// eligible appends to buf the endpoints of pool that may get another tunnel: of
// those that were not tried before and are usable and not full, the ones of the
// lowest class. The caller holds hosts.mu.
func eligible(buf, pool []*endpoint, tried []*slot) []*endpoint {
	first := len(tried) == 0 // asked once here, as it matters in large pools
	for class := range classes {
		for _, e := range pool {
			if e.class() == class && e.takesMore() && (first || !slices.Contains(tried, e.slot)) {
				buf = append(buf, e)
			}
		}
		if len(buf) > 0 {
			break
		}
	}
	return buf
}

// isUsable reports whether e may get tunnels at all: no operator wants it
// empty, and it passes its active check.
func (e *endpoint) isUsable() bool {
	return !e.host.closed && !e.down
}

// isFull reports whether e has as many tunnels as its upstream may have.
func (e *endpoint) isFull() bool {
	return e.slot.maxTunnels > 0 && e.host.tunnels >= e.slot.maxTunnels
}

func (e *endpoint) takesMore() bool { return e.isUsable() && !e.isFull() }

// ramped returns those of some endpoints that take part in this choice, and
// changes the order. What has joined lately is left out with a probability that
// falls over slowStart, unless there is nothing else. A smaller weight would not
// do: least_conn sends everybody to an upstream without tunnels, whatever its
// weight is.
func ramped(some []*endpoint, slowStart time.Duration, now time.Time, random func(n int) int) []*endpoint {
	n := 0
	for i, e := range some {
		if joined := e.joinedAt(); !joined.IsZero() && !drawn(now.Sub(joined), slowStart, random) {
			continue
		}
		some[n], some[i] = e, some[n]
		n++
	}
	if n == 0 {
		return some
	}
	return some[:n]
}

// drawn is true with the probability passed/whole.
func drawn(passed, whole time.Duration, random func(n int) int) bool {
	// In milliseconds, as an int may have 32 bits.
	return passed >= whole || random(int(whole.Milliseconds())) < int(passed.Milliseconds())
}

// compareLoad returns a negative number if one more tunnel would leave a less
// loaded than b for its weight, 0 if equally, else a positive one.
func compareLoad(a, b *endpoint) int64 {
	// An int of 32 bits could overflow.
	return int64(a.host.tunnels+1)*int64(b.slot.weight) - int64(b.host.tunnels+1)*int64(a.slot.weight)
}

// leastConn picks the endpoint with the fewest live tunnels for its weight,
// and among equals one at random.
type leastConn struct{}

func (leastConn) pick(eligible []*endpoint, random func(int) int) *endpoint {
	if len(eligible) == 0 {
		return nil
	}
	// In a pool that is balanced all are equal, so a random number for each of
	// them would take most of the time. Instead, equals are moved to the front.
	best, equals := eligible[0], 0
	tunnels, weight := int64(best.host.tunnels+1), int64(best.slot.weight)
	for i, e := range eligible {
		// As in compareLoad, but with what belongs to best in registers.
		t, w := int64(e.host.tunnels+1), int64(e.slot.weight)
		switch mine, least := t*weight, tunnels*w; {
		case mine > least:
			continue
		case mine < least:
			tunnels, weight, equals = t, w, 0
		}
		eligible[equals], eligible[i] = e, eligible[equals]
		equals++
	}
	return eligible[random(equals)]
}

// roundRobin takes turns by weight, spread out: the smooth weighted round
// robin of nginx.
type roundRobin struct{}

func (roundRobin) pick(eligible []*endpoint, _ func(int) int) *endpoint {
	var best *endpoint
	total := 0
	for _, e := range eligible {
		e.slot.current += e.slot.weight
		total += e.slot.weight
		if best == nil || e.slot.current > best.slot.current {
			best = e
		}
	}
	if best != nil {
		best.slot.current -= total
	}
	return best
}

// randomChoose draws some endpoints at random, by weight, and takes the one
// with the fewest tunnels for its weight: the power of two choices.
type randomChoose struct {
	choices int
	draws   uint64 // guarded by hosts.mu; counts picks
}

func (p *randomChoose) pick(eligible []*endpoint, random func(int) int) *endpoint {
	p.draws++
	total := 0
	for _, e := range eligible {
		total += e.slot.weight
	}
	var best *endpoint
	for range min(p.choices, len(eligible)) {
		e := p.draw(eligible, random(total))
		if e == nil {
			break
		}
		e.slot.drawn = p.draws
		total -= e.slot.weight
		if best == nil || compareLoad(e, best) < 0 {
			best = e
		}
	}
	return best
}

// draw returns the endpoint at which a sum of weights is reached, of those that
// this pick has not drawn yet.
func (p *randomChoose) draw(eligible []*endpoint, left int) *endpoint {
	for _, e := range eligible {
		if e.slot.drawn == p.draws {
			continue
		}
		if left -= e.slot.weight; left < 0 {
			return e
		}
	}
	return nil
}

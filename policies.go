package websocketproxy

// maxWeight bounds weights, so that comparisons of loads are far from overflow.
const maxWeight = 1 << 16

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

package upstream

// MaxWeight bounds weights, so that comparisons of loads are far from overflow.
const MaxWeight = 1 << 16

// compareLoad returns a negative number if one more tunnel would leave a less
// loaded than b for its weight, 0 if equally, else a positive one.
func compareLoad(a, b *Endpoint) int64 {
	// An int of 32 bits could overflow.
	return int64(a.Host.tunnels+1)*int64(b.Server.Weight) - int64(b.Host.tunnels+1)*int64(a.Server.Weight)
}

// LeastConn picks the endpoint with the fewest live tunnels for its weight,
// and among equals one at random.
type LeastConn struct{}

// Pick implements Policy.
func (LeastConn) Pick(eligible []*Endpoint, random func(int) int) *Endpoint {
	if len(eligible) == 0 {
		return nil
	}
	// In a pool that is balanced all are equal, so a random number for each of
	// them would take most of the time. Instead, equals are moved to the front.
	best, equals := eligible[0], 0
	tunnels, weight := int64(best.Host.tunnels+1), int64(best.Server.Weight)
	for i, e := range eligible {
		// As in compareLoad, but with what belongs to best in registers.
		t, w := int64(e.Host.tunnels+1), int64(e.Server.Weight)
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

// RoundRobin takes turns by weight, spread out: the smooth weighted round
// robin of nginx.
type RoundRobin struct{}

// Pick implements Policy.
func (RoundRobin) Pick(eligible []*Endpoint, _ func(int) int) *Endpoint {
	var best *Endpoint
	total := 0
	for _, e := range eligible {
		e.Server.current += e.Server.Weight
		total += e.Server.Weight
		if best == nil || e.Server.current > best.Server.current {
			best = e
		}
	}
	if best != nil {
		best.Server.current -= total
	}
	return best
}

// RandomChoose draws some endpoints at random, by weight, and takes the one
// with the fewest tunnels for its weight: the power of two choices.
type RandomChoose struct {
	Choices int
	draws   uint64 // guarded by the table's lock; counts picks
}

// Pick implements Policy.
func (p *RandomChoose) Pick(eligible []*Endpoint, random func(int) int) *Endpoint {
	p.draws++
	total := 0
	for _, e := range eligible {
		total += e.Server.Weight
	}
	var best *Endpoint
	for range min(p.Choices, len(eligible)) {
		e := p.draw(eligible, random(total))
		if e == nil {
			break
		}
		e.Server.drawn = p.draws
		total -= e.Server.Weight
		if best == nil || compareLoad(e, best) < 0 {
			best = e
		}
	}
	return best
}

// draw returns the endpoint at which a sum of weights is reached, of those that
// this pick has not drawn yet.
func (p *RandomChoose) draw(eligible []*Endpoint, left int) *Endpoint {
	for _, e := range eligible {
		if e.Server.drawn == p.draws {
			continue
		}
		if left -= e.Server.Weight; left < 0 {
			return e
		}
	}
	return nil
}

package websocketproxy

import "slices"

// A policy picks one of the endpoints that may get another tunnel, or nil if
// there are none. Its caller holds hosts.mu and reserves what it returns, so
// the choice and its count are one step. random returns a number in [0, n).
type policy interface {
	pick(eligible []*endpoint, random func(n int) int) *endpoint
}

// eligible appends to buf the endpoints of pool that may get another tunnel:
// not tried before, not full or closed, and backups only if nothing else is left. The
// caller holds hosts.mu.
func eligible(buf, pool []*endpoint, tried []*slot) []*endpoint {
	first := len(tried) == 0 // asked once here, as it matters in large pools
	for _, backup := range []bool{false, true} {
		for _, e := range pool {
			if e.slot.backup == backup && e.takesMore() && (first || !slices.Contains(tried, e.slot)) {
				buf = append(buf, e)
			}
		}
		if len(buf) > 0 {
			break
		}
	}
	return buf
}

// takesMore reports whether e may get another tunnel: an operator does not want
// it empty, and it has not as many as its upstream may have.
func (e *endpoint) takesMore() bool {
	return !e.host.closed && (e.slot.maxTunnels <= 0 || e.host.tunnels < e.slot.maxTunnels)
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
	best, equals := eligible[0], 1
	for _, e := range eligible[1:] {
		switch order := compareLoad(e, best); {
		case order < 0:
			best, equals = e, 1
		case order == 0:
			equals++
		}
	}
	// Of a pool that is balanced all are equal, so that a random number for
	// each of them would take most of the time.
	skip := random(equals)
	for _, e := range eligible {
		if compareLoad(e, best) != 0 {
			continue
		}
		if skip == 0 {
			return e
		}
		skip--
	}
	return best
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
	var best *endpoint
	for range p.choices {
		e := p.draw(eligible, random)
		if e == nil {
			break
		}
		e.slot.drawn = p.draws
		if best == nil || compareLoad(e, best) < 0 {
			best = e
		}
	}
	return best
}

// draw returns one of the endpoints that this pick has not drawn yet.
func (p *randomChoose) draw(eligible []*endpoint, random func(int) int) *endpoint {
	total := 0
	for _, e := range eligible {
		if e.slot.drawn != p.draws {
			total += e.slot.weight
		}
	}
	if total == 0 {
		return nil
	}
	left := random(total)
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

package upstream

import "time"

// Standing is what holds for an upstream of a pool.
type Standing struct {
	*Endpoint

	State State // an operator's
	// Word is its agent's, and Load what it has reported; 0 if that is not known.
	Word Word
	Load float64
	// HandshakesLimit is how many handshakes may be under way, set or found out, or zero for
	// any number; Handshakes is how many are.
	HandshakesLimit, Handshakes int
	// Limit is how many tunnels it may have, and Weight what it weighs in a choice.
	// Reweighed tells that this is not what is configured.
	Limit     int
	Weight    float64
	Reweighed bool
	// Full, Doubtful, Failing and Down say that it gets no tunnels, or gets them late; Checked that
	// active checks have said something.
	Full, Doubtful, Failing, Down, Checked bool
}

// Standings are those of the upstreams of a pool that do not depend on requests.
func (p *Pool) Standings() []Standing {
	endpoints := p.Standing()
	all := make([]Standing, len(endpoints))
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	for i, e := range endpoints {
		weight, reweighed := e.shownWeightLocked()
		all[i] = Standing{
			Word: e.word, Load: e.Load.utilisationLocked(time.Now()), Limit: e.mostLocked(), Weight: weight, Reweighed: reweighed,
			HandshakesLimit: e.Host.mostHandshakesLocked(e.Server), Handshakes: e.Host.underWay,
			Endpoint: e, State: p.table.states[e.Host.Address], Full: e.isFull(), Doubtful: e.doubtful, Failing: e.failing, Down: e.down,
			Checked: e.Verdict != nil && !e.Verdict.checked.IsZero(),
		}
	}
	return all
}

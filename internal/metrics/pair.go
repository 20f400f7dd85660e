package metrics

import (
	"sync/atomic"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// Pair counts what happens between handlers of one name and an upstream. It implements
// tunnel.Meter.
type Pair struct {
	life

	handler *Handler
	site    *site
	series  []*series

	configs atomic.Int64 // in force that have the upstream
	limit   atomic.Int64 // of tunnels; zero: none
	// handshakesLimit is how many handshakes may be under way; zero: any number.
	handshakesLimit atomic.Int64
	weight          atomic.Uint64 // the bits of a float
	reweighed       atomic.Bool   // it is not what is configured

	// opened and closed count tunnels. Who reads both begins with closed, so that there
	// are never more of these.
	opened   atomic.Uint64
	closed   atomic.Uint64
	closedBy words[tunnel.Peer]
	failed   words[string]
	// abandoned counts attempts that have come neither to a tunnel nor to a failure.
	abandoned atomic.Uint64
	// By direction: in, out.
	messages, bytes [2]atomic.Uint64

	// round is the last one in which the upstream was met, and next what it has there. Both
	// belong to the refresher.
	round uint64
	next  Status
}

var directions = [...]string{"in", "out"}

func newPair(h *Handler, u *site) *Pair {
	p := &Pair{handler: h, site: u, closedBy: make(words[tunnel.Peer]), failed: make(words[string])}
	p.seenLocked(h.metrics.clock())
	p.series = []*series{
		gaugeOf(descTunnels, func() float64 { return float64(p.open()) }, h.name, u.name),
		counterOf(descOpenedTo, &p.opened, h.name, u.name),
		counterOf(descAbandoned, &p.abandoned, h.name, u.name),
		levelOf(descTunnelsLimit, &p.limit, h.name, u.name).onlyIf(func() bool { return p.limit.Load() > 0 }),
		levelOf(descHandshakesLimit, &p.handshakesLimit, h.name, u.name).onlyIf(func() bool { return p.handshakesLimit.Load() > 0 }),
		floatOf(descWeight, &p.weight, h.name, u.name).onlyIf(p.reweighed.Load),
	}
	for _, by := range [...]tunnel.Peer{tunnel.Client, tunnel.Upstream, tunnel.Proxy} {
		p.series = append(p.series, counterOf(descClosedTo, p.closedBy.add(by), h.name, u.name, string(by)))
	}
	for _, cause := range h.metrics.words.Attempts {
		p.series = append(p.series, counterOf(descFailed, p.failed.add(cause), h.name, u.name, cause))
	}
	for i, direction := range directions {
		p.series = append(p.series,
			counterOf(descMessages, &p.messages[i], h.name, u.name, direction),
			counterOf(descBytes, &p.bytes[i], h.name, u.name, direction))
	}
	return p
}

// open is how many tunnels there are.
func (p *Pair) open() uint64 {
	closed := p.closed.Load()
	return p.opened.Load() - closed
}

// isRemoved reports whether no configuration has the upstream any more, and tunnels
// remain.
func (p *Pair) isRemoved() bool { return p.configs.Load() == 0 && p.open() > 0 }

func (p *Pair) useLocked() {
	p.use()
	p.site.use()
}

func (p *Pair) leaveLocked(now time.Time) {
	p.leave(now)
	p.site.leave(now)
}

func (p *Pair) seenLocked(now time.Time) {
	p.seen(now)
	p.site.seen(now)
}

// Closed counts the end of a tunnel.
func (p *Pair) Closed(o tunnel.Outcome, lasted time.Duration) {
	h := p.handler
	h.closed.count(o.Reason)
	if o.CloseFrom == "" {
		h.codes.count(codeFrom{noCode, noCode})
	} else {
		h.codes.count(codeFrom{codeOf(o.CloseCode), o.CloseFrom})
	}
	h.duration.observe(lasted)
	p.closedBy.count(o.ClosedBy)
	p.closed.Add(1)
	m := h.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	p.leaveLocked(m.clock())
}

// Moved implements tunnel.Meter.
func (p *Pair) Moved(m tunnel.Movement) {
	for i, n := range [...]uint64{m.BytesIn, m.BytesOut} {
		p.bytes[i].Add(n)
	}
	for i, n := range [...]uint64{m.MessagesIn, m.MessagesOut} {
		p.messages[i].Add(n)
	}
	h := p.handler
	for d := range m.Buffered {
		to := 1 - d // what a client sends waits for the upstream
		h.buffered[to].Add(int64(m.Buffered[d]))
		h.stalled[to].Add(int64(m.Stalled[d]))
	}
	h.silence.move(m.WasActive, m.Active)
}

// place is where the counts of a peer are.
func place(p tunnel.Peer) int {
	if p == tunnel.Client {
		return 0
	}
	return 1
}

// Pinged implements tunnel.Meter.
func (p *Pair) Pinged(to tunnel.Peer) { p.handler.pings[place(to)].Add(1) }

// Ponged implements tunnel.Meter.
func (p *Pair) Ponged(from tunnel.Peer, after time.Duration) {
	p.handler.rtt[place(from)].observe(after)
}

// PingTimedOut implements tunnel.Meter.
func (p *Pair) PingTimedOut(who tunnel.Peer) { p.handler.pingTimeouts[place(who)].Add(1) }

// site counts what happens at an upstream, whichever handlers have it.
type site struct {
	life

	name   string // the label
	series []*series

	attempts *histogram
	checks   words[checked]
	// up is 1 if active checks say so, 0 if they say no, and -1 if there are none.
	up atomic.Int64
	// handshakes are those under way, or notLimited.
	handshakes atomic.Int64
	// load are the bits of the utilisation that it has reported; zero: none.
	load atomic.Uint64
	// state is an operator's, and stateSet when it was given, in nanoseconds since 1970.
	state    atomic.Value
	stateSet atomic.Int64

	// round is the last one in which the upstream was met. It belongs to the refresher.
	round uint64
}

// notLimited stands for the number of handshakes where they are not limited.
const notLimited = -1

// checked is a kind of active checks, and a result.
type checked struct{ kind, result string }

// Agent is the kind of a check that asks an agent.
const Agent = "agent"

// kinds are those of active checks.
var kinds = []string{"http", "websocket", "tcp", Agent}

// Results of active checks.
const (
	resultPassed = "passed"
	resultFailed = "failed"
)

func newSite(name string) *site {
	u := &site{name: name, attempts: newHistogram(handshakeBounds), checks: make(words[checked])}
	u.up.Store(unchecked)
	u.handshakes.Store(notLimited)
	u.series = []*series{
		histogramOf(descAttempt, u.attempts, name),
		levelOf(descHandshakesAt, &u.handshakes, name).onlyIf(func() bool { return u.handshakes.Load() != notLimited }),
		floatOf(descLoad, &u.load, name),
		gaugeOf(descUp, func() float64 { return float64(u.up.Load()) }, name).onlyIf(func() bool { return u.up.Load() != unchecked }),
	}
	for _, kind := range kinds {
		passed, failed := u.checks.add(checked{kind, resultPassed}), u.checks.add(checked{kind, resultFailed})
		was := func() bool { return passed.Load() > 0 || failed.Load() > 0 }
		u.series = append(u.series,
			counterOf(descChecks, passed, name, kind, resultPassed).onlyIf(was),
			counterOf(descChecks, failed, name, kind, resultFailed).onlyIf(was))
	}
	for _, state := range states {
		u.series = append(u.series, gaugeOf(descState, func() float64 {
			if u.state.Load() == state {
				return 1
			}
			return 0
		}, name, state).onlyIf(func() bool { return u.state.Load() != nil }))
		u.series = append(u.series, gaugeOf(descStateSet, func() float64 {
			return seconds(time.Duration(u.stateSet.Load()))
		}, name, state).onlyIf(func() bool { return u.stateSet.Load() != 0 && u.state.Load() == state }))
	}
	return u
}

// unchecked is the value of up without active checks.
const unchecked = -1

// Checked counts a result of an active check of some kind. An agent that has answered has
// passed, whatever it has said.
func (m *Metrics) Checked(upstream, kind string, passed bool) {
	u, known := m.upstreams.load(Label(upstream))
	if !known {
		return
	}
	result := resultFailed
	if passed {
		result = resultPassed
	}
	u.checks.count(checked{kind, result})
}

package upstream

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
)

// AutoHandshakes is the number of Server.MaxHandshakes for which the upstream's own
// number is found out.
const AutoHandshakes = -1

// HandshakeRate is how many handshakes may begin in a second, and how many of them at
// once. The zero value is no limit.
type HandshakeRate struct {
	PerSecond float64
	Burst     int
}

// handshakes are those under way at a host, from the choice to the answer, and what
// bounds them. That stays as long as somebody uses the host: what has been found out of an
// upstream is not lost in a reload. All is guarded by the table's lock.
type handshakes struct {
	underWay int
	auto     *limit.Auto // nil until somebody wants it
	rates    []rate      // all that somebody wants: each handshake counts in all
	homes    []*queue    // of those who belong here, one for each pool
}

// rate is a limit, and what has come of it so far.
type rate struct {
	HandshakeRate
	*limit.Rate
}

// autoLocked is the host's own number, from now on if nobody has asked before.
func (h *handshakes) autoLocked() *limit.Auto {
	if h.auto == nil {
		h.auto = limit.NewAuto(rand.Float64)
	}
	return h.auto
}

// rateLocked is the host's count for a rate. Counts by which nobody is kept out are as
// new ones, so those of earlier configurations go.
func (h *handshakes) rateLocked(of HandshakeRate, now time.Time) *limit.Rate {
	i := slices.IndexFunc(h.rates, func(r rate) bool { return r.HandshakeRate == of })
	if i < 0 {
		h.rates = slices.DeleteFunc(h.rates, func(r rate) bool { return r.IsIdle(now) })
		i = len(h.rates)
		h.rates = append(h.rates, rate{of, limit.NewRate(of.PerSecond, of.Burst)})
	}
	return h.rates[i].Rate
}

// isFull reports whether newcomers wait for e.
func (e *Endpoint) isFull() bool {
	full, _ := e.fullLocked()
	return full
}

// fullLocked is isFull, and until when at most, if time changes that.
func (e *Endpoint) fullLocked() (full bool, until time.Time) {
	if e.lacksTunnels() {
		return true, until
	}
	return e.lacksHandshakes()
}

// lacksTunnels reports whether e has as many tunnels as its upstream may have.
func (e *Endpoint) lacksTunnels() bool {
	most := e.mostLocked()
	return most > 0 && e.Host.tunnels >= most
}

// lacksHandshakes reports whether no handshake may begin at e now, and until when at most,
// if time changes that.
func (e *Endpoint) lacksHandshakes() (lacks bool, until time.Time) {
	s, h := e.Server, e.Host
	if s.MaxHandshakes == 0 && s.HandshakeRate.PerSecond == 0 {
		return false, until
	}
	if s.MaxHandshakes > 0 && h.underWay >= s.MaxHandshakes {
		return true, until
	}
	now := time.Now()
	if s.HandshakeRate.PerSecond > 0 {
		if r := h.rateLocked(s.HandshakeRate, now); !r.Allows(now) {
			return true, r.Next(now)
		}
	}
	if s.MaxHandshakes == AutoHandshakes && !h.autoLocked().Allows(now) {
		return true, h.auto.Next(now)
	}
	return false, until
}

// mostHandshakesLocked is how many may be under way now for who has this limit; zero: any
// number.
func (h *handshakes) mostHandshakesLocked(s *Server) int {
	if s.MaxHandshakes == AutoHandshakes {
		return h.autoLocked().Limit()
	}
	return s.MaxHandshakes
}

// beginLocked counts a handshake, and returns what the host's own number knows it by.
func (h *Host) beginLocked() (t limit.Ticket) {
	h.underWay++
	if len(h.rates) == 0 && h.auto == nil {
		return t
	}
	now := time.Now()
	for _, r := range h.rates {
		r.Take(now)
	}
	if h.auto != nil {
		t = h.auto.Begin(now, h.isAwaitedLocked())
	}
	return t
}

// isAwaitedLocked reports whether somebody waits for the host, among others.
func (h *Host) isAwaitedLocked() bool {
	return len(h.homes) > 0 || slices.ContainsFunc(h.standing, func(e *Endpoint) bool { return e.pool.queue.isWaitedIn() })
}

// HandshakeEnded ends the count of a handshake, once: the upstream has answered, or will
// not. The place at it stays until TunnelEnded.
func (t *Table) HandshakeEnded(c *Choice, outcome limit.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.answered {
		return
	}
	c.answered = true
	t.underWay--
	c.Host.underWay--
	if c.Host.auto != nil {
		c.Host.auto.End(c.ticket, time.Now(), outcome)
	}
	c.Host.showLocked()
	t.serveAtLocked(c.Host)
}

// GiveBack ends all counts of a choice that has come to nothing.
func (t *Table) GiveBack(c *Choice) {
	t.HandshakeEnded(c, limit.Unknown)
	c.Room.Leave()
	t.TunnelEnded(c.Host)
}

// passLocked has a pool choose by what time has changed.
func (p *Pool) passLocked() {
	if p.nextPass.IsZero() {
		return
	}
	now := time.Now()
	if now.Before(p.nextPass) {
		return
	}
	p.nextPass = time.Time{}
	for i := range p.slots {
		e := p.slots[i].endpoint
		if e.doubtful {
			if at := e.Failures.nextTrialLocked(); now.Before(at) {
				p.passAtLocked(at)
			}
		}
		switch {
		case e.fullUntil.IsZero():
		case now.Before(e.fullUntil):
			p.passAtLocked(e.fullUntil)
		default:
			e.showLocked()
		}
	}
}

// passAtLocked notes when time changes what there is to choose.
func (p *Pool) passAtLocked(at time.Time) {
	if !at.IsZero() && (p.nextPass.IsZero() || at.Before(p.nextPass)) {
		p.nextPass = at
		if p.queue != nil {
			p.table.awaitOneLocked(p.queue)
		}
	}
}

// RetryAfter is when a handshake that is not served should come again: those of its pool
// one after another.
func (c *Candidates) RetryAfter() time.Duration {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	return c.pool.retry.After(time.Now(), c.Client, rand.Float64()) //nolint:gosec // jitter is no secret
}

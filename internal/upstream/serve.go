package upstream

import (
	"slices"
	"time"
)

// leastWait bounds how often those who wait are served as time has passed.
const leastWait = 100 * time.Microsecond

// serveLocked gives places to those who wait for them: whichever handler's tunnel has
// ended, or whatever else has made a place. Turns of clients are numbered for all queues
// together as they come, and the lowest number is served. So a client has one turn in a
// queue before any has a second one there, however many of its handshakes wait, and a
// handler whose upstreams others have, too, gets a turn for each of its clients: neither
// many handshakes nor many handlers keep anybody waiting. What a client has in several
// handlers, as after a reload, is served first come first served.
func (t *Table) serveLocked() { t.serveSomeLocked(func(*queue) bool { return true }) }

// serveAtLocked is serveLocked if there is a place at one host only.
func (t *Table) serveAtLocked(h *Host) {
	t.serveSomeLocked(func(q *queue) bool { return q.home == nil || q.home.Host == h })
}

// serveBeforeLocked serves those who stand before a handshake that comes.
func (t *Table) serveBeforeLocked(c *Candidates) {
	t.serveSomeLocked(func(q *queue) bool { return q.pool == c.pool && (q.home == nil || q.home == c.Home) })
}

// serveSomeLocked is serveLocked of the queues that are concerned.
func (t *Table) serveSomeLocked(concerns func(q *queue) bool) {
	if len(t.queues) == 0 {
		return
	}
	for _, q := range t.queues {
		q.exhausted, q.common, q.keyless = !concerns(q), false, false
	}
	for {
		var first *queue
		for _, q := range t.queues {
			if !q.exhausted && (first == nil || q.Turn() < first.Turn()) {
				first = q
			}
		}
		if first == nil {
			break
		}
		if !t.serveOlderLocked(first) {
			first.exhausted = !first.serveNextLocked()
		}
	}
	t.tidyLocked()
	t.awaitLocked()
}

// serveOlderLocked gives the turn of the first in a queue to an older handshake of the same
// client in the queue of another pool, if there is one that can be served.
func (t *Table) serveOlderLocked(q *queue) bool {
	first := q.First()
	if first == nil || q.home != nil || len(t.queues) == 1 {
		return false
	}
	oldest, in := first, q
	for _, other := range t.queues {
		if other.home != nil || other.exhausted || other == q {
			continue
		}
		if p := other.Of(first.Value.candidates.Client); p != nil && p.Value.number < oldest.Value.number {
			oldest, in = p, other
		}
	}
	if in == q {
		return false
	}
	w := oldest.Value
	chosen, err := w.candidates.chooseLocked()
	if chosen == nil && err == nil {
		return false
	}
	q.Pass(first)
	w.leaveLocked()
	w.served <- served{chosen, err}
	return true
}

// serveNextLocked gives a place to the first who can use one, and reports whether there
// was somebody.
func (q *queue) serveNextLocked() bool {
	if q.home != nil {
		return q.serveHomeLocked()
	}
	for p := range q.All() {
		w := p.Value
		c := w.candidates
		if q.common && len(c.expanded) == 0 || q.keyless && c.isKeyless() {
			continue
		}
		if chosen, err := c.chooseLocked(); chosen != nil || err != nil {
			w.endLocked(chosen, err)
			return true
		}
		if home, _ := c.homeLocked(); home != nil { // where its room is, which has a place for it now
			q.Remove(p)
			w.joinLocked(home, false)
			w.queue.exhausted = false
			return true
		}
		switch {
		case c.isKeyless():
			q.keyless = true
		case c.isPicky():
		case q.pool.Expands():
			q.common = true
		default:
			return false // nobody behind has more to choose from
		}
	}
	return false
}

// serveHomeLocked is serveNextLocked for those who belong at one upstream.
func (q *queue) serveHomeLocked() bool {
	p := q.First()
	if p == nil {
		return false
	}
	w := p.Value
	home, err := w.candidates.homeLocked()
	switch {
	case err != nil:
		w.endLocked(nil, err)
	case home == nil || home.Server != q.home.Server: // it is one like others now, or its room has moved
		q.Remove(p)
		w.joinLocked(home, false)
		w.queue.exhausted = false
	default:
		var lacks bool
		if lacks, q.until = home.lacksHandshakes(); lacks {
			return false
		}
		w.endLocked(w.candidates.reserveLocked(home), nil)
	}
	return true
}

// homeLocked is where a handshake has to go, and waits for its turn if need be; nil if it
// may go anywhere. The error says that it may go nowhere.
func (c *Candidates) homeLocked() (*Endpoint, error) {
	e, err := c.knownHomeLocked()
	if e == nil && err == nil && c.HasKey {
		return c.pickLocked(), nil // which may be elsewhere when it is looked for again
	}
	return e, err
}

func (c *Candidates) knownHomeLocked() (*Endpoint, error) {
	e := c.Home
	switch {
	case e == nil || c.roams || !e.isOpen() || e.failing || slices.Contains(c.tried, e.Server):
		return nil, nil
	case e.pool == nil && !c.pool.released && !slices.Contains(c.expanded, e):
		return nil, nil // it has left
	case !e.lacksTunnels():
		return e, nil
	case c.Session:
		return nil, ErrHomeFull
	}
	return nil, nil
}

// isPicky reports whether somebody else may find a place where this one does
// not: it has tried upstreams, or has some of its own.
func (c *Candidates) isPicky() bool {
	return len(c.tried) > 0 || len(c.expanded) > 0
}

// isKeyless reports whether it has no key where others have one, and nothing else that sets
// it apart. It minds doubt more than those with a key do, so these may find a place where it
// does not, but others like it do not either.
func (c *Candidates) isKeyless() bool {
	return c.pool.Keys != nil && !c.HasKey && len(c.tried) == 0 && len(c.expanded) == 0
}

// tidyLocked forgets queues in which nobody waits.
func (t *Table) tidyLocked() {
	t.queues = slices.DeleteFunc(t.queues, func(q *queue) bool {
		if q.Len() > 0 {
			return false
		}
		q.known = false
		if q.home != nil {
			h := q.home.Host
			h.homes = slices.DeleteFunc(h.homes, func(other *queue) bool { return other == q })
		}
		return true
	})
}

// awaitLocked has those who wait served when time makes places. The timer runs only while
// somebody waits for that.
func (t *Table) awaitLocked() {
	next := time.Time{}
	for _, q := range t.queues {
		at := q.pool.nextPass
		if q.home != nil {
			at = q.until
		}
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	switch {
	case next.IsZero() && t.timer != nil:
		t.timer.Stop()
		t.timer = nil
	case next.IsZero():
	case t.timer == nil:
		t.timer = time.AfterFunc(max(time.Until(next), leastWait), t.serve)
	default:
		t.timer.Reset(max(time.Until(next), leastWait))
	}
}

// serve is called when time has made places.
func (t *Table) serve() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.serveLocked()
}

// queuedLocked counts, for each address that is full, the handshakes that wait
// for it, among others.
func (t *Table) queuedLocked() map[string]int {
	queued := make(map[string]int)
	for _, q := range t.queues {
		if q.home != nil {
			queued[q.home.Host.Address] += q.Len()
			continue
		}
		full := make(map[string]bool)
		for _, e := range q.pool.Standing() {
			full[e.Host.Address] = full[e.Host.Address] || e.isUsable() && e.isFull()
		}
		for address, is := range full {
			if is {
				queued[address] += q.Len()
			}
		}
		q.countOwnLocked(queued, full)
	}
	return queued
}

// countOwnLocked counts those who wait for upstreams of their own.
func (q *queue) countOwnLocked(queued map[string]int, but map[string]bool) {
	for p := range q.All() {
		for _, e := range p.Value.candidates.expanded {
			if e.isUsable() && e.isFull() && !but[e.Host.Address] {
				queued[e.Host.Address]++
			}
		}
	}
}

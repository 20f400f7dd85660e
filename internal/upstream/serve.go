package upstream

import "slices"

// serveLocked gives places to those who wait for them: whichever handler's tunnel has
// ended, or whatever else has made a place. Turns of clients are numbered for all queues
// together as they come, and the lowest number is served. So a client has one turn in a
// queue before any has a second one there, however many of its handshakes wait, and a
// handler whose upstreams others have, too, gets a turn for each of its clients: neither
// many handshakes nor many handlers keep anybody waiting. What a client has in several
// handlers, as after a reload, is served first come first served.
func (t *Table) serveLocked() {
	for _, q := range t.queues {
		t.concernLocked(q)
	}
	t.serveConcernedLocked()
	t.awaitLocked()
}

// serveAtLocked is serveLocked if there is a place at one host only. BenchmarkServe has what
// that costs: it does not grow with how many wait, but with the upstreams of a pool and the
// pools that share the host. Who has tried upstreams may be asked in vain, one by one, while
// one of these is the only one with a place.
func (t *Table) serveAtLocked(h *Host) {
	if len(t.queues) == 0 {
		return
	}
	for _, e := range h.standing {
		t.concernLocked(e.pool.queue)
	}
	for _, q := range h.homes {
		t.concernLocked(q)
	}
	for _, q := range t.retired {
		t.concernLocked(q)
	}
	t.serveConcernedLocked()
}

// serveBeforeLocked serves those who stand before a handshake that comes.
func (t *Table) serveBeforeLocked(c *Candidates) {
	t.concernLocked(c.pool.queue)
	if c.Home != nil {
		t.concernLocked(c.Home.queueLocked(false))
	}
	for _, e := range c.expanded {
		t.concernLocked(e.queueLocked(true))
	}
	t.serveConcernedLocked()
}

// concernLocked has a queue served in this turn, if somebody waits in it.
func (t *Table) concernLocked(q *queue) {
	if !q.isWaitedIn() {
		return
	}
	q.exhausted, q.common = false, false
	if !q.concerned {
		q.concerned = true
		t.concerned = append(t.concerned, q)
		if q.home != nil { // whoever chooses may have time make places for those of the pool
			t.concernLocked(q.pool.queue)
		}
	}
}

// serveConcernedLocked is serveLocked of the queues that are concerned.
func (t *Table) serveConcernedLocked() {
	for {
		var first *queue
		for _, q := range t.concerned {
			if !q.exhausted && (first == nil || q.Turn() < first.Turn()) {
				first = q
			}
		}
		switch {
		case first == nil:
			t.concernedLocked()
			return
		case !first.mayServeLocked():
			t.sweepLocked()
		case !t.serveOlderLocked(first):
			first.exhausted = !first.serveNextLocked()
		}
	}
}

// sweepLocked has no turn given to queues in which nobody can be served, all at once: where
// many handlers have the same upstreams, a place is there for all of them, and then for none.
func (t *Table) sweepLocked() {
	for _, q := range t.concerned {
		q.exhausted = q.exhausted || !q.mayServeLocked()
	}
}

// concernedLocked is called when all that are concerned have been served.
func (t *Table) concernedLocked() {
	for _, q := range t.concerned {
		q.concerned = false
		t.tidyLocked(q)
		t.awaitOneLocked(q)
	}
	clear(t.concerned)
	t.concerned = t.concerned[:0]
}

// mayServeLocked reports whether there may be a place for somebody in a queue. It does not
// look at who waits.
func (q *queue) mayServeLocked() bool {
	if q.home != nil || q.Len() == 0 {
		return q.Len() > 0
	}
	q.pool.passLocked()
	slots := (&Candidates{pool: q.pool}).slotsLocked()
	for i := range slots {
		if s := &slots[i]; s.class < classes || q.keyed > 0 && s.keyed < classes {
			return true
		}
	}
	return false
}

// serveOlderLocked gives the turn of the first in a queue to an older handshake of the same
// client in the queue of another pool, if there is one that can be served.
func (t *Table) serveOlderLocked(q *queue) bool {
	first := q.First()
	if first == nil || q.home != nil || len(t.concerned) == 1 {
		return false
	}
	oldest, in := first, q
	for _, other := range t.concerned {
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
// was somebody. Those who have upstreams of their own wait for these in other queues, so
// there is nothing here for them if there is nothing for others. Only those who have tried
// upstreams are asked one by one, and only while one of the pool has a place.
func (q *queue) serveNextLocked() bool {
	if q.home != nil {
		return q.serveHomeLocked()
	}
	for p := range q.All() {
		w := p.Value
		c := w.candidates
		isOdd := w.hasTried || c.HasKey
		switch {
		case q.common && !isOdd:
		case w.serveLocked(q):
			return true
		case isOdd && (w.hasTried || len(c.expanded) > 0):
		case c.HasKey:
			return false // nobody minds less
		case len(c.expanded) > 0: // what it has may keep it from what is doubtful
		case q.tried+q.keyed == 0:
			return false // nobody behind has more to choose from
		default:
			q.common = true
		}
	}
	return false
}

// serveLocked gives w a place, in its turn in q, or has it wait where it belongs by now. It
// reports whether it could.
func (w *waiter) serveLocked(q *queue) bool {
	c := w.candidates
	if chosen, err := c.chooseLocked(); chosen != nil || err != nil {
		w.endLocked(q, chosen, err)
		return true
	}
	if home, _ := c.homeLocked(); home != nil { // where its room is, which has a place for it now
		w.moveLocked(home)
		return true
	}
	return false
}

// serveHomeLocked is serveNextLocked for those who belong at one upstream, or have it of
// their own.
func (q *queue) serveHomeLocked() bool {
	p := q.First()
	if p == nil {
		return false
	}
	w := p.Value
	if q.own {
		if w.serveLocked(q) {
			return true
		}
		_, q.until = q.home.fullLocked()
		return false
	}
	home, err := w.candidates.homeLocked()
	switch {
	case err != nil:
		w.endLocked(q, nil, err)
	case home == nil || home.Server != q.home.Server: // it is one like others now, or its room has moved
		w.moveLocked(home)
	default:
		var lacks bool
		if lacks, q.until = home.lacksHandshakes(); lacks {
			return false
		}
		w.endLocked(q, w.candidates.reserveLocked(home), nil)
	}
	return true
}

// moveLocked has w wait elsewhere, and be served there.
func (w *waiter) moveLocked(home *Endpoint) {
	w.outLocked()
	w.joinLocked(home, false)
	for _, at := range w.places {
		w.candidates.pool.table.concernLocked(at.queue)
	}
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

// tidyLocked forgets a queue if nobody waits in it.
func (t *Table) tidyLocked(q *queue) {
	if !q.known || q.Len() > 0 {
		return
	}
	q.known = false
	last := t.queues[len(t.queues)-1]
	last.at, t.queues[q.at] = q.at, last
	t.queues[len(t.queues)-1] = nil
	t.queues = t.queues[:len(t.queues)-1]
	isIt := func(other *queue) bool { return other == q }
	if q.home != nil {
		q.home.Host.homes = slices.DeleteFunc(q.home.Host.homes, isIt)
	} else {
		t.retired = slices.DeleteFunc(t.retired, isIt)
	}
	if len(t.queues) == 0 {
		t.awaitLocked()
	}
}

// queuedLocked counts, for each address that is full, the handshakes that wait
// for it, among others.
func (t *Table) queuedLocked() map[string]int {
	queued := make(map[string]int)
	for _, q := range t.queues {
		if q.home != nil {
			if !q.own || q.home.isUsable() && q.home.isFull() {
				queued[q.home.Host.Address] += q.Len()
			}
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
	}
	return queued
}

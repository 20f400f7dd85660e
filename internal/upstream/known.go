package upstream

import (
	"slices"
	"time"
)

// Place is an endpoint to who finds out where a client belongs.
type Place struct {
	Endpoint *Endpoint
	Weight   int
	// Rank is lower for those that are chosen before others: primaries before backups, and
	// what fails last.
	Rank uint8
	// Drains and Full, of tunnels, tell that it takes only whose session is under way there.
	Drains, Full bool
}

// Ranks is how many ranks there are.
const Ranks = int(kinds>>1) + 1

// Places appends to places those endpoints at which a client may stay, and that this
// handshake has not tried. Weights are those of the configuration: loads change, and where a
// client belongs must not.
func (c *Candidates) Places(places []Place) []Place {
	endpoints := c.Endpoints()
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	for _, e := range endpoints {
		if c.mayStayLocked(e) {
			places = append(places, Place{
				Endpoint: e, Weight: e.Server.Weight, Rank: uint8(e.kindLocked() >> 1),
				Drains: !e.isUsable(), Full: e.lacksTunnels(),
			})
		}
	}
	return places
}

// MayStay reports whether a client that belongs at e may stay there, as far as e is
// concerned: it is open, also if it drains, connections do not fail, and this handshake has
// not tried it.
func (c *Candidates) MayStay(e *Endpoint) bool {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	return !e.failing && c.mayStayLocked(e)
}

func (c *Candidates) mayStayLocked(e *Endpoint) bool {
	return e.isOpen() && !slices.Contains(c.tried, e.Server)
}

// kindLocked is the class of e without doubt and room, also if it drains.
func (e *Endpoint) kindLocked() (c class) {
	if e.Server.Backup {
		c |= backup
	}
	if e.failing {
		c |= failing
	}
	return c
}

// Own are the endpoints of this handshake only.
func (c *Candidates) Own() []*Endpoint { return c.expanded }

// Exclude has those endpoints not chosen of which something is true. No lock is held while
// it is asked.
func (c *Candidates) Exclude(is func(*Endpoint) bool) {
	for _, e := range c.Endpoints() {
		if is(e) {
			c.tried = append(c.tried, e.Server)
		}
	}
}

// Foresee returns where the client's tunnel would come now, and counts none: for a request
// that comes before it. The tunnel of a newcomer is expected there, so that all who come
// before the first of their tunnels is there do not go to the same upstream. It returns nil
// if there is no upstream. One that is full may answer requests.
func (c *Candidates) Foresee() *Endpoint {
	t := c.pool.table
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetExpectedLocked()
	e, err := c.homeLocked()
	switch {
	case e != nil:
		return e
	case err != nil:
		return c.Home // whose session goes on without a tunnel
	}
	if e = c.pickLocked(); e == nil {
		e = c.leastFullLocked()
	}
	if e != nil {
		t.expectLocked(e.Host, time.Now())
	}
	return e
}

// leastFullLocked returns the endpoint with the fewest tunnels for its weight, though all
// are full.
func (c *Candidates) leastFullLocked() (least *Endpoint) {
	var slot Slot
	for _, e := range c.firstKindLocked(func(e *Endpoint) bool {
		return e.isUsable() && !slices.Contains(c.tried, e.Server)
	}) {
		s := Slot{tunnels: e.Host.loadLocked(), weight: e.weightLocked()}
		if least == nil || compareLoad(&s, &slot) < 0 {
			least, slot = e, s
		}
	}
	return least
}

const (
	// expectedFor is how long a tunnel is expected of a client that has begun with other
	// requests.
	expectedFor = 10 * time.Second
	// mostExpected bounds what is remembered of an upstream. More who are on their way make
	// no difference to where the next one goes.
	mostExpected = 1 << 12
)

// expectLocked has a tunnel expected at h.
func (t *Table) expectLocked(h *Host, now time.Time) {
	if len(h.expected) >= mostExpected {
		return
	}
	if len(h.expected) == 0 {
		t.expecting = append(t.expecting, h)
	}
	h.expected = append(h.expected, now.Add(expectedFor))
	h.showLocked()
}

// cameLocked has one fewer expected at h.
func (t *Table) cameLocked(h *Host) {
	if len(h.expected) > 0 {
		h.expected = slices.Delete(h.expected, 0, 1)
		h.showLocked()
		t.tidyExpectedLocked()
	}
}

// forgetExpectedLocked has those not expected any more that have not come in time.
func (t *Table) forgetExpectedLocked() {
	if len(t.expecting) == 0 {
		return
	}
	now := time.Now()
	for _, h := range t.expecting {
		late := 0
		for late < len(h.expected) && !now.Before(h.expected[late]) {
			late++
		}
		if late > 0 {
			h.expected = slices.Delete(h.expected, 0, late)
			h.showLocked()
		}
	}
	t.tidyExpectedLocked()
}

func (t *Table) tidyExpectedLocked() {
	t.expecting = slices.DeleteFunc(t.expecting, func(h *Host) bool { return len(h.expected) == 0 })
}

// loadLocked is how many tunnels h has for those who choose.
func (h *Host) loadLocked() int32 { return int32(h.tunnels + len(h.expected)) }

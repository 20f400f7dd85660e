package upstream

import (
	"slices"
	"time"
)

// Policy picks one of the slots of a class: its index. There is at least one. Its caller
// holds the table's lock and reserves what it returns, so the choice and its count are one
// step. random returns a number in [0, n).
type Policy interface {
	Pick(slots []Slot, of class, random func(n int) int) int
}

// isUsable reports whether newcomers may get tunnels at e at all.
func (e *Endpoint) isUsable() bool {
	return e.isOpen() && !e.Host.draining && !e.word.Drains()
}

// isOpen reports whether clients that belong at e may: neither an operator nor its own agent
// has closed it for everybody, and it passes its active check.
func (e *Endpoint) isOpen() bool {
	return !e.Host.closed && !e.down && !e.word.Closes()
}

func (e *Endpoint) takesMore() bool { return e.isUsable() && !e.isFull() }

// chooseLocked picks an endpoint that was not tried before, or the one where the handshake
// belongs, and counts a tunnel and a handshake at it, in one step. It returns nil if none
// is available. The caller holds the lock.
func (c *Candidates) chooseLocked() (*Choice, error) {
	e, err := c.homeLocked()
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		e = c.pickLocked()
	default:
		if lacks, _ := e.lacksHandshakes(); lacks {
			return nil, nil
		}
	}
	if e == nil {
		return nil, nil
	}
	return c.reserveLocked(e), nil
}

// pickLocked is chooseLocked of a newcomer, without the count.
func (c *Candidates) pickLocked() *Endpoint {
	p := c.pool
	p.passLocked()
	p.table.forgetExpectedLocked()
	if p.GoesByLoad && !c.HasKey {
		p.weighLocked(time.Now()) // before any slot is hidden, as it shows them all
	}
	slots := c.slotsLocked()
	c.hideTried(slots)
	if c.HasKey {
		at := c.pickByKeyLocked(slots)
		p.unhide(slots, 0)
		if at < 0 {
			return nil
		}
		return slots[at].endpoint
	}
	seen := classesOf(slots)
	of, ok := firstOf(seen)
	if i := trialLocked(slots, seen, of); i >= 0 {
		p.unhide(slots, 0)
		return slots[i].endpoint
	}
	if !ok {
		p.unhide(slots, 0)
		return nil
	}
	if p.SlowStart > 0 {
		c.hideSlow(slots, of, time.Now(), p.table.random)
	}
	e := slots[p.Policy.Pick(slots, of, p.table.random)].endpoint
	p.unhide(slots, 0)
	if len(c.expanded) > 0 {
		keepLocked(slots)
	}
	return e
}

// hideSlow hides those of a class that take no part in this choice, unless there is
// nothing else. What has joined lately is left out with a probability that falls over
// slowStart. A smaller weight would not do: least_conn sends everybody to an upstream
// without tunnels, whatever its weight is.
func (c *Candidates) hideSlow(slots []Slot, of class, now time.Time, random func(n int) int) {
	p := c.pool
	if len(c.expanded) == 0 && !now.Before(p.slowUntil) {
		return
	}
	before, left := len(p.hidden), 0
	for i := range slots {
		if slots[i].class != of {
			continue
		}
		joined := slots[i].endpoint.slowSince()
		if joined.IsZero() || drawn(now.Sub(joined), p.SlowStart, random) {
			left++
		} else {
			p.hide(slots, i)
		}
	}
	if left == 0 {
		p.unhide(slots, before)
	}
}

// drawn is true with the probability passed/whole.
func drawn(passed, whole time.Duration, random func(n int) int) bool {
	// In milliseconds, as an int may have 32 bits.
	return passed >= whole || random(int(whole.Milliseconds())) < int(passed.Milliseconds())
}

// Options are the endpoints that may be chosen now, for who chooses without the lock. Doubt
// is no matter there: what knows its clients has to keep them.
func (c *Candidates) Options() []*Endpoint {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	return c.firstKindLocked(func(e *Endpoint) bool {
		return e.takesMore() && !slices.Contains(c.tried, e.Server)
	})
}

// Usable returns how the endpoints are spelled that would be chosen from now, full ones
// too.
func (c *Candidates) Usable() (dials []string) {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	for _, e := range c.firstKindLocked((*Endpoint).isUsable) {
		dials = append(dials, e.Server.Dial)
	}
	return dials
}

// firstKindLocked returns those endpoints of which something is true that come before all
// others of which it is.
func (c *Candidates) firstKindLocked(is func(*Endpoint) bool) (first []*Endpoint) {
	kind := closed
	for _, e := range c.Endpoints() {
		if !is(e) {
			continue
		}
		switch k := e.kindLocked(); {
		case k < kind:
			kind, first = k, append(first[:0], e)
		case k == kind:
			first = append(first, e)
		}
	}
	return first
}

package upstream

import (
	"slices"
	"time"
)

// Slot is what a choice has to know of an endpoint. Those of a pool lie beside each
// other, as a choice among a thousand endpoints would else take most of its time to get
// to their servers and hosts.
type Slot struct {
	// endpoint is whose slot it is.
	endpoint *Endpoint
	seed     uint64 // for the order of keys
	tunnels  int32  // also those that are expected
	weight   int32
	class    class
	keyed    class  // as who has a key sees it
	current  int64  // of smooth weighted round robin
	drawn    uint64 // number of the last random_choose that drew it
}

// A class tells when an endpoint is chosen: only if there is none of a lower class.
// Backups come after others, and what passive checks have found failing after
// everything else, so that these never leave a pool without upstreams.
type class uint8

const (
	doubtful class = 1 << iota // gets newcomers only if all of its kind are
	backup
	failing
	full // has as many tunnels or handshakes as it may have

	// classes is how many there are with room, and kinds what makes them differ besides
	// doubt.
	classes = 8
	kinds   = backup | failing
	// closed gets nobody.
	closed class = 1 << 7
)

// slotLocked is what holds for e now. The caller holds the table's lock.
func (e *Endpoint) slotLocked() Slot {
	c := e.classLocked()
	return Slot{
		endpoint: e, seed: e.Host.seed, tunnels: e.Host.loadLocked(), weight: e.weightLocked(), class: c, keyed: e.keyedLocked(c),
		current: e.Server.current,
	}
}

// classLocked is when e is chosen, for its slot: it notes until when.
func (e *Endpoint) classLocked() class {
	e.fullUntil = time.Time{}
	if !e.isUsable() {
		return closed
	}
	var c class
	if e.doubtful {
		c |= doubtful
	}
	if e.Server.Backup {
		c |= backup
	}
	if e.failing {
		c |= failing
	}
	isFull, until := e.fullLocked()
	if e.fullUntil = until; isFull {
		c |= full
		if e.pool != nil {
			e.pool.passAtLocked(e.fullUntil)
		}
	}
	return c
}

// keyedLocked is what a class is for those who have a key. Doubt is no matter, and where only
// no handshake may begin now, they wait for that.
func (e *Endpoint) keyedLocked(c class) class {
	if c != closed && !e.lacksTunnels() {
		c &^= full
	}
	return c &^ doubtful
}

// classesOf are those that some slots have, as a set of bits.
func classesOf(slots []Slot) (seen uint64) {
	for i := range slots {
		if c := slots[i].class; c < classes<<1 {
			seen |= 1 << c
		}
	}
	return seen
}

// firstOf returns the class of a set that is chosen from. Among those of a kind that are
// not doubtful, who is full is waited for: if one upstream fails and the others are full, it
// must not get all who come.
func firstOf(seen uint64) (class, bool) {
	for kind := class(0); kind <= kinds; kind += backup {
		good := kind
		switch {
		case seen&(1<<good) != 0:
			return good, true
		case seen&(1<<(good|full)) == 0 && seen&(1<<(good|doubtful)) != 0:
			return good | doubtful, true
		}
	}
	return closed, false
}

// showLocked has the pool of e, if e stands in one, choose by what holds for e now.
func (e *Endpoint) showLocked() {
	if e.pool != nil {
		s := &e.pool.slots[e.at]
		s.tunnels, s.weight, s.class = e.Host.loadLocked(), e.weightLocked(), e.classLocked()
		s.keyed = e.keyedLocked(s.class)
	}
}

// countLocked counts so many more tunnels.
func (h *Host) countLocked(n int) {
	h.tunnels += n
	h.showLocked()
}

// showLocked has all pools know how many tunnels the host has, and who may come.
func (h *Host) showLocked() {
	for _, e := range h.standing {
		e.showLocked()
	}
}

// addSlotLocked has a pool choose e, too.
func (p *Pool) addSlotLocked(e *Endpoint) {
	e.pool, e.at = p, len(p.slots)
	e.Host.standing = append(e.Host.standing, e)
	p.slots = append(p.slots, e.slotLocked())
	e.startSlowlyLocked()
}

// emptyLocked takes all slots away.
func (p *Pool) emptyLocked() {
	for i := range p.slots {
		e := p.slots[i].endpoint
		e.Server.current = p.slots[i].current
		e.Host.standing = without(e.Host.standing, e)
		e.pool = nil
	}
	p.slots = nil // a pick is through with them
}

// stand has the pool choose among these endpoints from now on, and among no others.
func (p *Pool) stand(endpoints []*Endpoint) {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	if p.released {
		return
	}
	p.emptyLocked()
	p.slots = make([]Slot, 0, len(endpoints))
	for _, e := range endpoints {
		p.addSlotLocked(e)
	}
	p.table.serveLocked() // who belongs at one that has gone may go elsewhere
}

// retire has nothing of a pool kept up to date any more, as its configuration is unloaded.
func (p *Pool) retire() {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	p.emptyLocked()
	p.released = true
	if p.queue.isWaitedIn() {
		p.table.retired = append(p.table.retired, p.queue)
	}
}

// startSlowlyLocked has the pool of e know that e is started slowly, if it is.
func (e *Endpoint) startSlowlyLocked() {
	if e.pool != nil && e.pool.SlowStart > 0 {
		e.pool.slowUntil = Later(e.pool.slowUntil, e.slowSince().Add(e.pool.SlowStart))
	}
}

// slotsLocked are those that a handshake chooses from. If it has endpoints of its own, or
// the pool is not in force any more, they are made for it.
func (c *Candidates) slotsLocked() []Slot {
	p := c.pool
	if len(c.expanded) == 0 && !p.released {
		return p.slots
	}
	p.scratch = p.scratch[:0]
	for _, e := range c.Endpoints() {
		if e.pool == p { // is kept up to date, by when its handshakes may begin again
			p.scratch = append(p.scratch, p.slots[e.at])
			continue
		}
		p.scratch = append(p.scratch, e.slotLocked())
		p.passAtLocked(e.fullUntil)
	}
	return p.scratch
}

// keepLocked keeps what a policy has noted in slots that were made for a handshake.
func keepLocked(slots []Slot) {
	for i := range slots {
		s := &slots[i]
		if e := s.endpoint; e.pool != nil {
			e.pool.slots[e.at].current = s.current
		} else {
			e.Server.current = s.current
		}
	}
}

// hide has slots not chosen for now. It returns what brings them back.
func (p *Pool) hide(slots []Slot, i int) {
	p.hidden = append(p.hidden, hiddenSlot{i, slots[i].class, slots[i].keyed})
	slots[i].class, slots[i].keyed = closed, closed
}

// hiddenSlot is a slot that is not chosen for now, and its classes.
type hiddenSlot struct {
	at           int
	class, keyed class
}

// unhide brings back all but so many that were hidden.
func (p *Pool) unhide(slots []Slot, but int) {
	for _, h := range p.hidden[but:] {
		slots[h.at].class, slots[h.at].keyed = h.class, h.keyed
	}
	p.hidden = p.hidden[:but]
}

// hideTried hides what a handshake has tried.
func (c *Candidates) hideTried(slots []Slot) {
	if len(c.tried) == 0 {
		return
	}
	for i := range slots {
		if slots[i].class != closed && slices.Contains(c.tried, slots[i].endpoint.Server) {
			c.pool.hide(slots, i)
		}
	}
}

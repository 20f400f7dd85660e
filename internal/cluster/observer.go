package cluster

import (
	"cmp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Observer is told what happens. What it is told is as others have said it, and so
// not always printable.
type Observer interface {
	// Found is told, once, what counts of what was stored before the process started.
	Found(states map[string]upstream.State)
	// Changed is told of an upstream whose state is another one than it was.
	Changed(c Change)
	// Exchanged is told of each look at the storage: nil if all was read and stored.
	Exchanged(err error)
	// Fails is told when the storage has begun to fail, and Works when that is over.
	Fails(err error)
	Works()
	// Ahead is told which addresses have times in the storage that lie too far ahead and
	// are ignored, whenever these are others than before.
	Ahead(addresses []string)
}

// Change is an upstream's new state, and why it has it.
type Change struct {
	Address string
	// From is the state that it had: one of the operators', or ready.
	From string
	// State may be ready, with who has said that, or who had said what has expired.
	State upstream.State
	Cause Cause
}

// Cause is why a state has changed.
type Cause int

// Why states change: somebody has said so, time has passed, or nothing has had the
// address for too long.
const (
	SetHere Cause = iota
	SetElsewhere
	Expired
	Unused
)

// String returns the cause in words.
func (c Cause) String() string {
	switch c {
	case SetHere:
		return "set here"
	case SetElsewhere:
		return "set at another instance"
	case Expired:
		return "expired"
	default:
		return "no configuration has had it for " + dropAfter.String()
	}
}

// changesLocked returns the upstreams whose state is another one than it was. Those
// that are found when the process starts have changed for nobody.
func (c *States) changesLocked(from Cause, was words) (changes []Change) {
	if !c.found && from == SetElsewhere {
		return nil
	}
	for address, s := range c.applied {
		if !s.Equal(was[address]) {
			changes = append(changes, Change{address, cmp.Or(was[address].State, upstream.Ready), s, from})
		}
	}
	for address, old := range was {
		if _, still := c.applied[address]; still {
			continue
		}
		s, said := c.known[address]
		cause := from
		switch {
		case !said:
			cause = Unused
		case s.IsSet():
			cause = Expired
		}
		s.State = upstream.Ready
		changes = append(changes, Change{address, old.State, s, cause})
	}
	return changes
}

// foundStates notes that the states of a storage are known.
func (c *States) foundStates() {
	c.mu.Lock()
	isFirst, all, observer := !c.found, c.applied, c.observerLocked()
	c.found = true
	c.mu.Unlock()
	if isFirst && len(all) > 0 {
		observer.Found(all)
	}
}

// observerLocked returns that of the newest configuration.
func (c *States) observerLocked() Observer {
	if n := len(c.syncs); n > 0 {
		return c.syncs[n-1].config.Observer
	}
	return c.observer
}

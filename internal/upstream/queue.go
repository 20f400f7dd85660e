package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// QueueLimits bound the handshakes of a pool that wait for a place at an
// upstream that is full. None wait if size is zero.
type QueueLimits struct {
	Size    int
	Timeout time.Duration
}

// waiter is a handshake in the queue of its pool.
type waiter struct {
	candidates *Candidates
	served     chan *Choice // has room for one
}

var (
	// ErrNoneLeft means that no upstream is available any more that could be waited for.
	ErrNoneLeft = errors.New("no upstream is available any more")
	// ErrQueueTimeout means that nobody has made place in time.
	ErrQueueTimeout = errors.New("all upstreams are full, and no tunnel has ended in time; see max_tunnels")
	// ErrQueueFull means that too many wait already.
	ErrQueueFull = errors.New("all upstreams are full")
)

// Next chooses an upstream; nil if there is none now. Where that fails because all are
// full, it waits in the pool's queue until it is served, first come first served. Who
// comes again, because the upstream has failed, has its old place and as much time as
// was left. The error is that of ctx, or one of those above.
func (c *Candidates) Next(ctx context.Context) (*Choice, error) {
	chosen, w, err := c.chooseOrQueue()
	if w == nil {
		return chosen, err
	}
	began := time.Now()
	if c.Waiting != nil {
		c.Waiting.Add(1)
		defer c.Waiting.Add(-1)
	}
	defer func() { c.Waited += time.Since(began) }()
	timer := time.NewTimer(c.pool.Queue.Timeout - c.Waited)
	defer timer.Stop()
	select {
	case chosen := <-w.served:
		return chosen, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	if chosen := c.pool.leaveQueue(w); chosen != nil {
		if ctx.Err() == nil {
			return chosen, nil // it came at the last moment
		}
		chosen.GiveBack(c.pool.table)
	}
	return nil, c.whyNot(ctx)
}

// whyNot says why nobody is served any more.
func (c *Candidates) whyNot(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	if !c.mayWaitLocked() {
		return ErrNoneLeft
	}
	return ErrQueueTimeout
}

// chooseOrQueue chooses, or takes its place in the queue if that can help.
func (c *Candidates) chooseOrQueue() (*Choice, *waiter, error) {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	p := c.pool
	if c.ticket == 0 {
		c.pool.table.tickets++
		c.ticket = c.pool.table.tickets
	}
	if len(p.waiting) == 0 {
		if chosen := c.chooseLocked(); chosen != nil {
			return chosen, nil, nil
		}
	}
	w := p.enqueueLocked(c)
	c.pool.table.serveLocked() // what there is goes to those before it, if they can use it
	select {
	case chosen := <-w.served:
		return chosen, nil, nil
	default:
	}
	isNew := !c.queued
	switch {
	case !c.mayWaitLocked():
		p.dequeueLocked(w)
		return nil, nil, nil
	case isNew && len(p.waiting) > p.Queue.Size:
		p.dequeueLocked(w)
		return nil, nil, fmt.Errorf("%w, and %d handshakes wait; see max_tunnels and queue", ErrQueueFull, len(p.waiting))
	}
	c.queued = true
	return nil, w, nil
}

// mayWaitLocked reports whether there is an upstream that is only full.
func (c *Candidates) mayWaitLocked() bool {
	return c.pool.Queue.Size > 0 && slices.ContainsFunc(c.Endpoints(), func(e *Endpoint) bool {
		return e.isUsable() && e.isFull() && !slices.Contains(c.tried, e.Server)
	})
}

func (p *Pool) enqueueLocked(c *Candidates) *waiter {
	w := &waiter{candidates: c, served: make(chan *Choice, 1)}
	i, _ := slices.BinarySearchFunc(p.waiting, c.ticket, func(w *waiter, ticket uint64) int {
		return cmp.Compare(w.candidates.ticket, ticket)
	})
	p.waiting = slices.Insert(p.waiting, i, w)
	if len(p.waiting) == 1 {
		p.table.queues = append(p.table.queues, p)
	}
	return w
}

// leaveQueue takes w out of the queue. If it has been served meanwhile, it
// returns with what.
func (p *Pool) leaveQueue(w *waiter) *Choice {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	if !p.dequeueLocked(w) {
		return <-w.served
	}
	return nil
}

// dequeueLocked takes w out, and reports whether it was in.
func (p *Pool) dequeueLocked(w *waiter) bool {
	i := slices.Index(p.waiting, w)
	if i < 0 {
		return false
	}
	p.waiting = slices.Delete(p.waiting, i, i+1)
	if len(p.waiting) == 0 {
		p.table.queues = slices.DeleteFunc(p.table.queues, func(other *Pool) bool { return other == p })
	}
	return true
}

// serveLocked gives places to those who wait for them, in the order in which they
// have come to any pool: whichever handler's tunnel has ended, or whatever else
// has made a place.
func (t *Table) serveLocked() {
	for _, p := range t.queues {
		p.turn, p.exhausted = 0, false
	}
	for {
		var first *Pool
		for _, p := range t.queues {
			if p.turn < len(p.waiting) && (first == nil || p.ticketLocked() < first.ticketLocked()) {
				first = p
			}
		}
		if first == nil {
			break
		}
		first.serveNextLocked()
	}
	t.queues = slices.DeleteFunc(t.queues, func(p *Pool) bool { return len(p.waiting) == 0 })
}

// ticketLocked is that of the handshake whose turn it is.
func (p *Pool) ticketLocked() uint64 { return p.waiting[p.turn].candidates.ticket }

// serveNextLocked gives a place to the handshake whose turn it is, if there is
// one for it.
func (p *Pool) serveNextLocked() {
	w := p.waiting[p.turn]
	if p.exhausted && len(w.candidates.expanded) == 0 {
		p.turn++
		return
	}
	chosen := w.candidates.chooseLocked()
	switch {
	case chosen != nil:
		p.waiting = slices.Delete(p.waiting, p.turn, p.turn+1)
		w.served <- chosen
	case w.candidates.isPicky():
		p.turn++
	case p.Expands():
		p.turn++
		p.exhausted = true
	default:
		p.turn = len(p.waiting) // nobody behind has more to choose from
	}
}

// queuedLocked counts, for each address that is full, the handshakes that wait
// for it, among others.
func (t *Table) queuedLocked() map[string]int {
	queued := make(map[string]int)
	for _, p := range t.queues {
		full := make(map[string]bool)
		for _, e := range p.Standing() {
			full[e.Host.Address] = full[e.Host.Address] || e.isUsable() && e.isFull()
		}
		for address, is := range full {
			if is {
				queued[address] += len(p.waiting)
			}
		}
		for _, w := range p.waiting {
			for _, e := range w.candidates.expanded {
				if e.isUsable() && e.isFull() && !full[e.Host.Address] {
					queued[e.Host.Address]++
				}
			}
		}
	}
	return queued
}

// isPicky reports whether somebody else may find a place where this one does
// not: it has tried upstreams, has some of its own, or minds doubt more than those with a
// key do.
func (c *Candidates) isPicky() bool {
	return len(c.tried) > 0 || len(c.expanded) > 0 || c.pool.Keys != nil && !c.HasKey
}

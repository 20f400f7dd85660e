package upstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
)

// QueueLimits bound the handshakes of a pool that wait for a place at an
// upstream that is full. None wait if size is zero.
type QueueLimits struct {
	Size    int
	Timeout time.Duration
}

// queue are handshakes that wait for the same: to get to any upstream of their pool, or to
// the one at which they belong. Each client has a line of its own.
type queue struct {
	*limit.Fair[netip.Prefix, *waiter]

	home *Endpoint // where its handshakes belong, if they do
	// until is until when none may begin there, if time ends that.
	until time.Time
	pool  *Pool
	// exhausted tells, while places are given away, that there is none for anybody here,
	// common that there is none for those without upstreams of their own, and keyless that
	// there is none for those without a key.
	exhausted, common, keyless bool
	known                      bool // to the table
}

func (q *queue) isWaitedIn() bool { return q != nil && q.Len() > 0 }

type place = limit.Place[netip.Prefix, *waiter]

// waiter is a handshake that waits.
type waiter struct {
	candidates *Candidates
	served     chan served // has room for one
	queue      *queue      // nil once it waits no more
	number     uint64      // by when it has come
	place      *place
	bound      *place // among all of its pool
}

// served is what has come of waiting.
type served struct {
	choice *Choice
	err    error
}

var (
	// ErrNoneLeft means that no upstream is available any more that could be waited for.
	ErrNoneLeft = errors.New("no upstream is available any more")
	// ErrQueueTimeout means that nobody has made place in time.
	ErrQueueTimeout = errors.New("all upstreams are at a limit, and no place has become free in time; " +
		"see max_tunnels, max_handshakes and handshake_rate")
	// ErrQueueFull means that too many wait already.
	ErrQueueFull = errors.New("all upstreams are at a limit, and as many handshakes wait as may; see queue")
	// ErrHomeFull means that a session is under way at an upstream that is full.
	ErrHomeFull = errors.New("the upstream of the client's session has as many tunnels as it may have; see max_tunnels")
)

// Next chooses an upstream; nil if there is none now. Where that fails because all are
// full, it waits in the pool's queue until it is served: in turn with other clients, and
// first come first served among its client's. One that belongs at an upstream waits for
// that. Who comes again, because the upstream has failed, is served next and has as much
// time as was left. The error is that of ctx, or one of those above.
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
	case got := <-w.served:
		return got.choice, got.err
	case <-timer.C:
	case <-ctx.Done():
	}
	if got, ok := c.pool.leaveQueue(w); ok {
		if ctx.Err() == nil {
			return got.choice, got.err // it came at the last moment
		}
		if got.choice != nil {
			c.pool.table.TrialOver(got.choice)
			c.pool.table.GiveBack(got.choice)
		}
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
	t := c.pool.table
	t.mu.Lock()
	defer t.mu.Unlock()
	t.serveBeforeLocked(c) // what there is goes to those before it, if they can use it
	chosen, err := c.chooseLocked()
	switch {
	case chosen != nil || err != nil || !c.mayWaitLocked():
		return chosen, nil, err
	case c.pool.Queue.Size <= 0: // it has to stay where it belongs
		return nil, nil, fmt.Errorf("%w that the client may go to; see max_handshakes, handshake_rate and queue", ErrQueueFull)
	}
	w := c.pool.enqueueLocked(c)
	if w == nil {
		return nil, nil, c.pool.queueFullLocked()
	}
	c.queued = true
	t.tidyLocked() // somebody may have gone
	t.awaitLocked()
	return nil, w, nil
}

// mayWaitLocked reports whether there is an upstream that is only full.
func (c *Candidates) mayWaitLocked() bool {
	if home, _ := c.homeLocked(); home != nil {
		return true
	}
	return c.pool.Queue.Size > 0 && slices.ContainsFunc(c.Endpoints(), func(e *Endpoint) bool {
		return e.isUsable() && e.isFull() && !slices.Contains(c.tried, e.Server)
	})
}

func (p *Pool) queueFullLocked() error {
	return fmt.Errorf("%w, and %d handshakes wait; see max_tunnels, max_handshakes and queue", ErrQueueFull, p.bound.Len())
}

// enqueueLocked has a handshake wait; nil if it is one too many. If another one is, that is
// refused.
func (p *Pool) enqueueLocked(c *Candidates) *waiter {
	if p.bound == nil {
		p.bound = limit.NewFair[netip.Prefix, *waiter](p.Queue.Size, new(uint64))
	}
	p.table.turns++
	w := &waiter{candidates: c, served: make(chan served, 1), number: p.table.turns}
	var dropped *place
	if c.queued {
		w.bound = p.bound.Return(c.Client, w)
	} else if w.bound, dropped = p.bound.Push(c.Client, w); w.bound == nil {
		return nil
	}
	if dropped != nil {
		dropped.Value.leaveLocked()
		dropped.Value.served <- served{err: p.queueFullLocked()}
	}
	home, _ := c.homeLocked()
	w.joinLocked(home, c.queued)
	return w
}

// joinLocked has w wait for a home, or for any upstream. It is served next if it comes
// again.
func (w *waiter) joinLocked(home *Endpoint, again bool) {
	c := w.candidates
	w.queue = c.pool.queueLocked(home)
	if c.roams = home == nil; !c.roams {
		_, w.queue.until = home.lacksHandshakes()
	}
	if again {
		w.place = w.queue.Return(c.Client, w)
		return
	}
	w.place, _ = w.queue.Push(c.Client, w)
}

// queueLocked is the queue for a home, or the one for any upstream. The table knows it
// while somebody waits.
func (p *Pool) queueLocked(home *Endpoint) *queue {
	t, q := p.table, p.queue
	if home != nil {
		q = home.queueLocked()
	}
	if q == nil {
		// What bounds it is that all of the pool are bounded.
		q = &queue{Fair: limit.NewFair[netip.Prefix, *waiter](math.MaxInt, &t.turns), pool: p, home: home}
	}
	if home == nil {
		p.queue = q
	}
	if !q.known {
		q.known, q.exhausted, q.common, q.keyless = true, false, false, false
		t.queues = append(t.queues, q)
		if home != nil {
			home.Host.homes = append(home.Host.homes, q)
		}
	}
	return q
}

// queueLocked is the one of those who belong at e; nil if nobody waits.
func (e *Endpoint) queueLocked() *queue {
	for _, q := range e.Host.homes {
		if q.home.Server == e.Server {
			return q
		}
	}
	return nil
}

// leaveQueue takes w out of its queue. If it has been served meanwhile, it returns with
// what.
func (p *Pool) leaveQueue(w *waiter) (served, bool) {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	if w.queue == nil {
		return <-w.served, true
	}
	w.leaveLocked()
	p.table.tidyLocked()
	p.table.awaitLocked()
	return served{}, false
}

// leaveLocked takes w out of its queue.
func (w *waiter) leaveLocked() {
	p := w.candidates.pool
	p.bound.Remove(w.bound)
	w.queue.Remove(w.place)
	w.queue = nil
}

// endLocked has a waiter get what it has waited for, in its turn.
func (w *waiter) endLocked(chosen *Choice, err error) {
	w.candidates.pool.bound.Remove(w.bound)
	w.queue.Serve(w.place)
	w.queue = nil
	w.served <- served{chosen, err}
}

package evict

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// maxSteps bounds what one event sets off. It also is what a share of
// a twentieth needs.
const maxSteps = 20

// Rebalance is how tunnels of a pool are closed so that they come to be where they
// should be.
type Rebalance struct {
	// Share is the part of those that are too many which are closed in each step;
	// zero means that none is.
	Share float64
	// Interval is the time from one step to the next.
	Interval time.Duration
	// Closing is told of each step before it begins: how many are too many, and how many it
	// closes at which addresses, of tunnels whose clients are of a group. It is called
	// without a lock.
	Closing func(clients upstream.ClientGroup, tooMany int, closing map[string]int)
}

// rebalancer closes tunnels at the fullest upstreams of a pool, step by step, so
// that their clients come to others.
type rebalancer struct {
	Rebalance

	evictor *Evictor
	loaded  *Pool
	running sync.WaitGroup // the goroutine, while there is something to do
	stop    chan struct{}  // closed when the configuration is unloaded

	// What follows is guarded by the evictor's mu.
	stopped bool
	run     *rebalanceRun // nil if there is nothing to do
}

func newRebalancer(e *Evictor, p *Pool) *rebalancer {
	return &rebalancer{Rebalance: p.Rebalance, evictor: e, loaded: p, stop: make(chan struct{})}
}

// rebalanceRun is how far rebalancing has come since the last event.
type rebalanceRun struct {
	next  time.Time // earliest time of the next step
	steps int
	// worst is the most tunnels that were where they should not be, and before
	// the part that they were before the last step.
	worst  int
	before float64
	// news is set by an event. What was measured earlier does not count then.
	news bool
}

// BecameReady has others moved to upstreams that get new tunnels again, as an
// operator has made them ready. They have begun to start slowly.
func (e *Evictor) BecameReady(addresses []string) {
	e.rebalance(func(one *upstream.Endpoint) bool { return slices.Contains(addresses, one.Host.Address) },
		func(*rebalancer) time.Time { return time.Time{} })
}

// Discovered has upstreams started slowly that have just been found, and others
// moved to them. Some of them others may have had before.
func (e *Evictor) Discovered(found []*upstream.Endpoint, had []string) {
	e.table.JoinNew(found, had)
	e.rebalance(func(one *upstream.Endpoint) bool { return slices.Contains(found, one) },
		func(*rebalancer) time.Time { return time.Time{} })
}

// Recovered is the same for upstreams that work again. Nothing is moved to
// them until they have done so for an interval: one that comes and goes must not
// have tunnels closed at the others each time.
func (e *Evictor) Recovered(endpoints []*upstream.Endpoint) {
	e.table.JoinPools(endpoints)
	e.rebalance(func(one *upstream.Endpoint) bool { return slices.Contains(endpoints, one) },
		func(b *rebalancer) time.Time { return time.Now().Add(b.Interval) })
}

// rebalance has the pools in force rebalanced in which there is an endpoint
// that is concerned, from a time on that depends on them.
func (e *Evictor) rebalance(concerned func(*upstream.Endpoint) bool, next func(*rebalancer) time.Time) {
	for again := true; again; {
		again = false
		for _, b := range e.rebalancers() {
			if slices.ContainsFunc(b.loaded.Pool.Standing(), concerned) && !b.begin(next(b)) {
				again = true // another pool has taken its place meanwhile
			}
		}
	}
}

// rebalancers are those of the pools in force.
func (e *Evictor) rebalancers() (all []*rebalancer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for p := range e.poolsLocked() {
		if p.rebalance != nil && p.generation.inForce {
			all = append(all, p.rebalance)
		}
	}
	return all
}

// begin starts a run that makes its first step at next, or one that is
// under way anew. It reports false if the pool is not loaded any more.
func (b *rebalancer) begin(next time.Time) bool {
	b.evictor.mu.Lock()
	defer b.evictor.mu.Unlock()
	if b.stopped {
		return false
	}
	if b.run != nil {
		next = upstream.Later(next, b.run.next)
	}
	if slow := b.loaded.Pool.SlowStart; slow > 0 { // before which there are no levels to compare
		next = upstream.Later(next, time.Now().Add(slow))
	}
	b.setRunLocked(&rebalanceRun{next: next, before: math.Inf(1), news: true})
	return true
}

// inheritLocked goes on with the run of a pool whose place this one takes. That
// may have other upstreams, and its last step may have been cut short, so what
// it brought does not count.
func (b *rebalancer) inheritLocked(run *rebalanceRun) {
	if run != nil && b.run == nil {
		b.setRunLocked(&rebalanceRun{next: run.next, steps: run.steps, worst: run.worst, before: math.Inf(1)})
	}
}

func (b *rebalancer) setRunLocked(run *rebalanceRun) {
	isNew := b.run == nil
	b.run = run
	if isNew {
		b.running.Go(b.goOn)
	}
}

// stopLocked ends the run for good. Whoever calls it waits for running then,
// which takes no longer than looking at all tunnels.
func (b *rebalancer) stopLocked() {
	b.stopped = true
	close(b.stop)
}

// goOn makes one step after another, until there is nothing to do.
func (b *rebalancer) goOn() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(b.untilNext())
		select {
		case <-b.stop:
			return
		case <-b.evictor.live.ExitBegun():
			return
		case <-timer.C:
		}
		if b.untilNext() > 0 {
			continue // an event has put it off
		}
		closing, targets, more := b.step()
		if !more {
			return
		}
		// The other half of the time is for the clients to come back.
		inVain := false
		tunnel.EndEach(b.stop, closing, b.Interval/2, func(t *tunnel.Tunnel) (tunnel.Ending, bool) {
			inVain = inVain || !b.takes(targets)
			how, is := b.due(t)
			if is && !inVain {
				LeaseOf(t).Room.MoveOn()
			}
			return how, is && !inVain
		})
		if inVain {
			b.takeBack()
		}
	}
}

// takeBack has the last step not count, as those that it was for cannot get tunnels
// any more.
func (b *rebalancer) takeBack() {
	b.evictor.mu.Lock()
	defer b.evictor.mu.Unlock()
	if b.run != nil {
		b.run.steps--
		b.run.before = math.Inf(1)
	}
}

func (b *rebalancer) untilNext() time.Duration {
	b.evictor.mu.Lock()
	defer b.evictor.mu.Unlock()
	return time.Until(b.run.next)
}

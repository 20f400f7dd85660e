package websocketproxy

import (
	"math"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/balance"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// rebalancer closes tunnels at the fullest upstreams of a pool, step by step, so
// that their clients come to others.
type rebalancer struct {
	loaded    *loadedPool
	share     float64
	interval  time.Duration
	slowStart time.Duration // before which there are no levels to compare
	live      *tunnel.Registry
	logger    *zap.Logger

	running sync.WaitGroup // the goroutine, while there is something to do
	stop    chan struct{}  // closed when the configuration is unloaded

	// What follows is guarded by loadedPools.mu.
	stopped bool
	run     *rebalanceRun // nil if there is nothing to do
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

// beginLocked starts a run that makes its first step at next, or one that is
// under way anew.
func (b *rebalancer) beginLocked(next time.Time) {
	if b.run != nil {
		next = upstream.Later(next, b.run.next)
	}
	if b.slowStart > 0 {
		next = upstream.Later(next, time.Now().Add(b.slowStart))
	}
	b.setRunLocked(&rebalanceRun{next: next, before: math.Inf(1), news: true})
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
		case <-b.live.ExitBegun():
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
		tunnel.EndEach(b.stop, closing, b.interval/2, func(t *tunnel.Tunnel) (tunnel.Ending, bool) {
			inVain = inVain || !b.takes(targets)
			how, is := b.due(t)
			return how, is && !inVain
		})
		if inVain {
			b.takeBack()
		}
	}
}

// takes reports whether one of some addresses can still get tunnels.
func (b *rebalancer) takes(targets map[string]bool) bool {
	return slices.ContainsFunc(b.loaded.pool.Occupancies(), func(o upstream.Occupancy) bool {
		return targets[o.Address] && !o.Closed
	})
}

// takeBack has the last step not count, as those that it was for cannot get tunnels
// any more.
func (b *rebalancer) takeBack() {
	loadedPools.mu.Lock()
	defer loadedPools.mu.Unlock()
	if b.run != nil {
		b.run.steps--
		b.run.before = math.Inf(1)
	}
}

func (b *rebalancer) untilNext() time.Duration {
	loadedPools.mu.Lock()
	defer loadedPools.mu.Unlock()
	return time.Until(b.run.next)
}

// step returns the tunnels to close now, for which addresses, and whether there will
// be another step.
func (b *rebalancer) step() (closing []*tunnel.Tunnel, targets map[string]bool, more bool) {
	loadedPools.mu.Lock()
	b.run.news = false
	loadedPools.mu.Unlock()
	addresses, loads, movable := b.measure()
	v := balance.LevelsOf(loads)
	n, more := b.decide(v)
	if n == 0 {
		return nil, nil, more
	}
	for i, n := range v.Closings(n) {
		tunnel.IdleFirst(movable[i])
		closing = append(closing, movable[i][:n]...)
	}
	targets = make(map[string]bool)
	for i, address := range addresses {
		if v.IsShort(i) {
			targets[address] = true
		}
	}
	tunnel.IdleFirst(closing)
	b.logger.Info("rebalancing", zap.Int("too_many", v.TooMany), zap.Int("closing", len(closing)))
	return closing, targets, more
}

// decide returns how many tunnels to close now. If it reports that there is no
// more to do, the run has ended.
func (b *rebalancer) decide(v *balance.Levels) (n int, more bool) {
	loadedPools.mu.Lock()
	defer loadedPools.mu.Unlock()
	run, uneven := b.run, v.Unevenness()
	switch {
	case b.stopped:
		return 0, false // the run goes on elsewhere, and the pool's tunnels with it
	case run.news:
		return 0, true
	case v.IsLevel(), run.steps == maxRebalanceSteps,
		uneven > run.before-1e-9: // but for rounding
		b.run = nil
		return 0, false
	}
	run.steps++
	run.next = time.Now().Add(b.interval)
	run.worst, run.before = max(run.worst, v.TooMany), uneven
	return int(math.Ceil(b.share * float64(run.worst))), true
}

// measure returns the pool's addresses, their loads, and the tunnels that may
// be closed at each. Upstreams that depend on the request are not among them:
// where their clients would come to is not known before they do.
func (b *rebalancer) measure() (addresses []string, loads []balance.Load, movable [][]*tunnel.Tunnel) {
	index := make(map[string]int)
	for _, l := range b.loaded.pool.Occupancies() {
		one := loadOf(l)
		i, found := index[l.Address]
		if !found {
			i = len(loads)
			index[l.Address] = i
			addresses, loads = append(addresses, l.Address), append(loads, one)
			continue
		}
		loads[i].Merge(one)
	}
	movable = make([][]*tunnel.Tunnel, len(loads))
	ours := make(map[*lineage]bool)
	for _, t := range b.live.Collect(nil) {
		i, found := index[t.Upstream]
		if !found {
			continue
		}
		l := leaseOf(t)
		mine, known := ours[l.policy.lineage]
		if !known {
			mine = loadedPools.match(l.policy.lineage, b.loaded.config) == b.loaded
			ours[l.policy.lineage] = mine
		}
		switch {
		case !t.IsOpen():
			loads[i].Tunnels-- // which the balancer is about to see
		case mine && l.from == nil:
			movable[i] = append(movable[i], t)
		}
	}
	for i := range loads {
		l := &loads[i]
		l.Movable = len(movable[i])
		l.Tunnels = max(l.Tunnels, l.Movable) // the two were not counted at once
	}
	return addresses, loads, movable
}

func loadOf(o upstream.Occupancy) balance.Load {
	return balance.Load{Tunnels: o.Tunnels, Weight: float64(o.Weight), Most: o.Most, Backup: o.Backup, Closed: o.Closed}
}

// due tells whether a tunnel is to be closed when it is its turn, and how. An
// upstream that drains keeps its tunnels.
func (b *rebalancer) due(t *tunnel.Tunnel) (tunnel.Ending, bool) {
	select {
	case <-b.stop:
		return tunnel.Ending{}, false
	case <-b.live.ExitBegun():
		return tunnel.Ending{}, false
	default:
		return leaseOf(t).moved(tunnel.Rebalanced), !hosts.StateOf(t.Upstream).Closes()
	}
}

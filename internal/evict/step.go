package evict

import (
	"math"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/balance"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// step returns the tunnels to close now, for which addresses, and whether there will
// be another step.
func (b *rebalancer) step() (closing []*tunnel.Tunnel, targets map[string]bool, more bool) {
	b.evictor.mu.Lock()
	b.run.news = false
	b.evictor.mu.Unlock()
	addresses, loads, movable := b.measure()
	v := balance.LevelsOf(loads)
	n, more := b.decide(v)
	if n == 0 {
		return nil, nil, more
	}
	closing = b.choose(v, n, addresses, movable)
	targets = make(map[string]bool)
	for i, address := range addresses {
		if v.IsShort(i) {
			targets[address] = true
		}
	}
	if len(closing) > 0 { // there may be none that makes it better
		at := make(map[string]int)
		for _, t := range closing {
			at[t.Upstream]++
		}
		b.Closing(b.evictor.ClientGroup(b.loaded), v.TooMany, at)
	}
	return closing, targets, more
}

// decide returns how many tunnels to close now. If it reports that there is no
// more to do, the run has ended.
func (b *rebalancer) decide(v *balance.Levels) (n int, more bool) {
	uneven, isLevel := v.Unevenness(), v.IsLevel()
	b.evictor.mu.Lock()
	defer b.evictor.mu.Unlock()
	run := b.run
	switch {
	case b.stopped:
		return 0, false // the run goes on elsewhere, and the pool's tunnels with it
	case run.news:
		return 0, true
	case isLevel, run.steps == maxSteps,
		uneven > run.before-1e-9: // but for rounding
		b.run = nil
		return 0, false
	}
	run.steps++
	run.next = time.Now().Add(b.Interval)
	run.worst, run.before = max(run.worst, v.TooMany), uneven
	return int(math.Ceil(b.Share * float64(run.worst))), true
}

// measure returns the pool's addresses, their loads, and the tunnels that may
// be closed at each. Upstreams that depend on the request are not among them:
// where their clients would come to is not known before they do.
func (b *rebalancer) measure() (addresses []string, loads []balance.Load, movable [][]*tunnel.Tunnel) {
	index := make(map[string]int)
	for _, l := range b.loaded.Pool.Occupancies() {
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
	for _, t := range b.evictor.live.Collect(nil) {
		i, found := index[t.Upstream]
		if !found {
			continue
		}
		l := LeaseOf(t)
		mine, known := ours[l.Policy.lineage]
		if !known {
			mine = b.evictor.leadsTo(l.Policy.lineage, b.loaded)
			ours[l.Policy.lineage] = mine
		}
		switch {
		case !t.IsOpen():
			loads[i].Tunnels-- // which the balancer is about to see
		case mine && l.From == nil:
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
	return balance.Load{Tunnels: o.Tunnels, Weight: o.Weight, Most: o.Most, Backup: o.Backup, Closed: o.Closed}
}

// takes reports whether one of some addresses can still get tunnels.
func (b *rebalancer) takes(targets map[string]bool) bool {
	return slices.ContainsFunc(b.loaded.Pool.Occupancies(), func(o upstream.Occupancy) bool {
		return targets[o.Address] && !o.Closed
	})
}

// due tells whether a tunnel is to be closed when it is its turn, and how. An
// upstream that an operator keeps newcomers from keeps its tunnels.
func (b *rebalancer) due(t *tunnel.Tunnel) (tunnel.Ending, bool) {
	select {
	case <-b.stop:
		return tunnel.Ending{}, false
	case <-b.evictor.live.ExitBegun():
		return tunnel.Ending{}, false
	default:
		return LeaseOf(t).moved(tunnel.Rebalanced), !b.evictor.table.StateOf(t.Upstream).IsSet()
	}
}

package evict

import (
	"maps"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// generation is a configuration that is loaded. All but unloaded is guarded by the
// evictor's mu.
type generation struct {
	unloaded <-chan struct{}
	pools    []*Pool // oldest first

	// started tells that its apps are, inForce that it is not just being loaded, and
	// told that is known what its end has changed.
	started, inForce, told bool
}

// Config is what is to be known of a handler's pool.
type Config struct {
	// Unloaded is closed when the handler's configuration is unloaded. It is the
	// same for all handlers of it, and for no others.
	Unloaded <-chan struct{}
	// Name is the handler's; empty: it has none.
	Name string
	Pool *upstream.Pool
	// Policy is what its tunnels have.
	Policy *Policy
	// Shown are the upstreams, by what tells them apart: addresses, templates, and
	// configurations of sources. The values are what is shown of them.
	Shown map[string]string
	// Pending tells that a source is still to give its first answer.
	Pending   func() bool
	Rebalance Rebalance
	// Handler is the caller's.
	Handler any
}

// Pool is the pool of a handler whose configuration is loaded.
type Pool struct {
	Config
	*lineage

	generation *generation
	rebalance  *rebalancer // nil: off

	// What follows is guarded by the evictor's mu. clients is nil until it is
	// needed, and joined tells that what the pool has brought has started slowly.
	clients upstream.ClientGroup
	joined  bool
}

// addresses are those of the upstreams that do not depend on the request, as
// far as they have been found.
func (p *Pool) addresses() []string {
	var all []string
	for _, e := range p.Pool.Standing() {
		all = append(all, e.Host.Address)
	}
	return all
}

// Add notes that a pool is being loaded, with or without rebalancing: its tunnels may
// meet one with it later. If no other configuration is there, it has no predecessor
// to wait for. Nothing is closed before the configuration is in force.
func (e *Evictor) Add(c Config) *Pool {
	p := &Pool{Config: c, lineage: &lineage{
		name:       c.Name,
		upstreams:  slices.Sorted(maps.Keys(c.Shown)),
		rebalances: c.Rebalance.Share > 0,
	}}
	if p.rebalances {
		p.rebalance = newRebalancer(e, p)
	}
	c.Policy.lineage, c.Policy.evictor = p.lineage, e
	e.mu.Lock()
	defer e.mu.Unlock()
	p.generation = e.generationLocked(c.Unloaded)
	p.generation.pools = append(p.generation.pools, p)
	return p
}

func (e *Evictor) generationLocked(unloaded <-chan struct{}) *generation {
	for _, g := range e.loaded {
		if g.unloaded == unloaded {
			return g
		}
	}
	g := &generation{unloaded: unloaded, inForce: len(e.loaded) == 0}
	e.loaded = append(e.loaded, g)
	return g
}

// Start notes that the apps of the pool's configuration have been started. Upstreams
// that the pool has and its predecessors did not have start slowly. All pools of the
// old configuration and of the new one have to be there. Tunnels are moved to those
// upstreams when the first pool of the old one goes: before, loading may still fail.
func (e *Evictor) Start(p *Pool) {
	e.mu.Lock()
	p.generation.started = true
	e.mu.Unlock()
	e.join(p)
}

// putInForce notes that a configuration is in force, when the pools before it are still
// there. Where pools have brought upstreams, rebalancing begins.
func (e *Evictor) putInForce(g *generation) {
	e.mu.Lock()
	was, pools := g.inForce, slices.Clone(g.pools)
	g.inForce = true
	e.mu.Unlock()
	if was {
		return
	}
	for _, p := range pools {
		if next, brought := e.join(p); p.rebalance != nil && len(brought) > 0 {
			p.rebalance.begin(next)
		}
	}
}

// join has the upstreams that p has brought start slowly, and returns them.
// Next is when its predecessors would have rebalanced.
func (e *Evictor) join(p *Pool) (next time.Time, brought []*upstream.Endpoint) {
	predecessors, others, next := e.before(p)
	known := make(map[string]*upstream.Endpoint)
	for _, old := range predecessors {
		for _, endpoint := range old.Pool.Standing() {
			known[endpoint.Host.Address] = endpoint
		}
	}
	if len(known) == 0 {
		return next, nil
	}
	for _, endpoint := range p.Pool.Standing() {
		if old, found := known[endpoint.Host.Address]; found {
			e.table.Inherit(endpoint, old)
		} else {
			brought = append(brought, endpoint)
		}
	}
	e.mu.Lock()
	joined := p.joined
	p.joined = true
	e.mu.Unlock()
	if !joined {
		var had []string // in all of their time
		for _, other := range others {
			had = append(had, other.addresses()...)
		}
		e.table.JoinNew(brought, had)
	}
	return next, brought
}

// before returns the pools of other configurations, those of them whose place p takes,
// and when these would have rebalanced.
func (e *Evictor) before(p *Pool) (predecessors, others []*Pool, next time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for old := range e.poolsLocked() {
		if old.generation == p.generation {
			continue
		}
		others = append(others, old)
		if old.matchLocked(p.generation) != p {
			continue
		}
		predecessors = append(predecessors, old)
		if old.rebalance != nil && old.rebalance.run != nil {
			next = old.rebalance.run.next
		}
	}
	return predecessors, others, next
}

// Remove takes a pool out whose configuration is unloaded, and ends what it has
// under way. That goes on in the pool that takes its place, if there is one: old
// configurations are unloaded when the new one is in force. Pools that are
// being loaded are newer, so it does not matter to others when they go. It
// returns what the reload has changed, to the first pool that goes.
func (e *Evictor) Remove(p *Pool) (changes []Change) {
	e.mu.Lock()
	newer := e.newerLocked(p.generation)
	changes = changesLocked(p.generation, newer)
	e.mu.Unlock()
	for _, g := range newer {
		e.putInForce(g)
	}
	e.mu.Lock()
	for _, g := range newer {
		for _, next := range g.pools {
			e.clientGroupLocked(next) // which p may be needed for
		}
	}
	e.removeLocked(p)
	if p.rebalance != nil {
		p.rebalance.stopLocked()
	}
	e.mu.Unlock()
	if p.rebalance == nil {
		return changes
	}
	p.rebalance.running.Wait()
	if len(newer) == 0 {
		return changes
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if heir := p.matchLocked(newer[0]); heir != nil && heir.rebalance != nil {
		heir.rebalance.inheritLocked(p.rebalance.run)
	}
	return changes
}

// newerLocked returns the configurations that were loaded later than one that still is.
func (e *Evictor) newerLocked(g *generation) []*generation {
	i := slices.Index(e.loaded, g)
	if i < 0 {
		return nil
	}
	return slices.Clone(e.loaded[i+1:])
}

func (e *Evictor) removeLocked(p *Pool) {
	g := p.generation
	g.pools = slices.DeleteFunc(g.pools, func(other *Pool) bool { return other == p })
	if len(g.pools) == 0 {
		e.loaded = slices.DeleteFunc(e.loaded, func(other *generation) bool { return other == g })
	}
}

// Pools returns all pools that are loaded, oldest first.
func (e *Evictor) Pools() []*Pool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(e.poolsLocked())
}

// Named returns the pools of a configuration whose handlers have this name. For a
// request that comes when the configuration has been unloaded, they are those of
// the newest one.
func (e *Evictor) Named(name string, unloaded <-chan struct{}) []*Pool {
	e.mu.Lock()
	defer e.mu.Unlock()
	var newest []*Pool
	for _, g := range e.loaded {
		named := slices.DeleteFunc(slices.Clone(g.pools), func(p *Pool) bool { return p.name != name })
		if g.unloaded == unloaded && len(named) > 0 {
			return named
		}
		if len(named) > 0 && (g.started || g.inForce) {
			newest = named
		}
	}
	select {
	case <-unloaded:
		return newest
	default:
		return nil
	}
}

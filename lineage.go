package websocketproxy

import (
	"slices"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// lineage is what a tunnel keeps of the pool it was opened by, to find the pool
// that its client would come to today. Reloads make new handlers, and nothing
// but their likeness says which of them takes the place of an old one.
type lineage struct {
	name string // the handler's
	// upstreams are addresses, templates and the configurations of sources, sorted
	// and each once.
	upstreams  []string
	rebalances bool
}

// likeness says how much a pool is like another one. More is more, in the order
// of the elements; without a common upstream there is none.
func (l *lineage) likeness(other *lineage) [3]int {
	if l.name != other.name {
		return [3]int{}
	}
	common, same := 0, 0
	for _, u := range l.upstreams {
		if _, found := slices.BinarySearch(other.upstreams, u); found {
			common++
		}
	}
	if l.rebalances == other.rebalances {
		same = 1
	}
	return [3]int{common, -len(other.upstreams), same}
}

// loadedPool is the pool of a handler whose configuration is loaded.
type loadedPool struct {
	*lineage

	// config is the same for all handlers of a configuration, and for no others.
	config  <-chan struct{}
	pool    *upstream.Pool
	handler *Handler
	pending func() bool // tells that a source is still to give its first answer
	// shown is how the elements of upstreams are shown in the log.
	shown     map[string]string
	rebalance *rebalancer // nil: off
	clients   clientGroup // nil until it is needed; guarded by the set's mu

	// joined tells that what it has brought has started slowly, and runs that the
	// configuration is in force, not just being loaded. started tells that the apps
	// of the configuration are, and told that is known what its end has changed.
	// All are guarded by the set's mu.
	joined, runs, started, told bool
}

// addresses are those of the upstreams that do not depend on the request, as
// far as they have been found.
func (p *loadedPool) addresses() []string {
	var all []string
	for _, e := range p.pool.Standing() {
		all = append(all, e.Host.Address)
	}
	return all
}

// poolSet is the loaded pools of the process, oldest first. In a reload those
// of the new configuration come before those of the old one go; one that
// fails to load goes again, with the old one still there.
type poolSet struct {
	mu  sync.Mutex
	all []*loadedPool
}

var loadedPools poolSet

// add notes that a pool is being loaded. If no other configuration is there, it
// has no predecessor to wait for.
func (s *poolSet) add(p *loadedPool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.runs = !slices.ContainsFunc(s.all, func(other *loadedPool) bool { return other.config != p.config })
	s.all = append(s.all, p)
}

// join has the addresses start slowly that a pool has and its predecessors did
// not have. All pools of the old configuration and of the new one have to be there.
func (s *poolSet) join(p *loadedPool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.started = true
	s.joinLocked(p)
}

// startLocked notes that the configuration of p is in force, when the pools before
// it are still there. If p has brought addresses, rebalancing begins.
func (s *poolSet) startLocked(p *loadedPool) {
	if p.runs {
		return
	}
	p.runs = true
	next, joined := s.joinLocked(p)
	if p.rebalance != nil && len(joined) > 0 {
		p.rebalance.beginLocked(next)
	}
}

// joinLocked has the upstreams that p has brought start slowly, and returns them.
// Next is when its predecessors would have rebalanced.
func (s *poolSet) joinLocked(p *loadedPool) (next time.Time, joined []*upstream.Endpoint) {
	known := make(map[string]*upstream.Endpoint) // in the predecessors
	var others []string                          // in all of their time
	for _, old := range s.all {
		if old.config == p.config {
			continue
		}
		others = append(others, old.addresses()...)
		if s.matchLocked(old.lineage, p.config) != p {
			continue
		}
		for _, e := range old.pool.Standing() {
			known[e.Host.Address] = e
		}
		if old.rebalance != nil && old.rebalance.run != nil {
			next = old.rebalance.run.next
		}
	}
	if len(known) == 0 {
		return next, nil
	}
	for _, e := range p.pool.Standing() {
		if old, found := known[e.Host.Address]; found {
			hosts.Inherit(e, old)
		} else {
			joined = append(joined, e)
		}
	}
	if !p.joined {
		p.joined = true
		hosts.JoinNew(joined, others)
	}
	return next, joined
}

// mayFind reports whether a source is still to give its first answer, of a pool that
// the clients of a lineage come to. Where nothing tells which one that is, it is any
// of this name.
func (s *poolSet) mayFind(l *lineage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l != nil && slices.ContainsFunc(s.all, func(p *loadedPool) bool {
		if p.name != l.name || !p.pending() {
			return false
		}
		match := s.matchLocked(l, p.config)
		return match == nil || match == p
	})
}

// match returns the pool of a configuration that the clients of a lineage come
// to, or nil if that cannot be said. Of pools that are alike it is the first.
func (s *poolSet) match(l *lineage, config <-chan struct{}) *loadedPool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.matchLocked(l, config)
}

func (s *poolSet) matchLocked(l *lineage, config <-chan struct{}) *loadedPool {
	if l == nil {
		return nil
	}
	var best *loadedPool
	var most [3]int
	for _, p := range s.all {
		if p.config != config {
			continue
		}
		likeness := l.likeness(p.lineage)
		if likeness[0] > 0 && (best == nil || slices.Compare(likeness[:], most[:]) > 0) {
			best, most = p, likeness
		}
	}
	return best
}

// remove takes a pool out whose configuration is unloaded, and ends what it has
// under way. That goes on in the pool that takes its place, if there is one: old
// configurations are unloaded when the new one is in force. Pools that are
// being loaded are newer, so it does not matter to others when they go. It
// returns what the reload has changed, to the first pool that goes.
func (s *poolSet) remove(p *loadedPool) (changes []poolChange) {
	s.mu.Lock()
	next := s.newerLocked(p)
	changes = s.changesLocked(p, next)
	for _, n := range next {
		s.startLocked(n)
		s.clientGroupLocked(n) // which p may be needed for
	}
	s.all = slices.DeleteFunc(s.all, func(other *loadedPool) bool { return other == p })
	if p.rebalance != nil {
		p.rebalance.stopLocked()
	}
	s.mu.Unlock()
	if p.rebalance == nil {
		return changes
	}
	p.rebalance.running.Wait()
	if len(next) == 0 {
		return changes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if heir := s.matchLocked(p.lineage, next[0].config); heir != nil && heir.rebalance != nil {
		heir.rebalance.inheritLocked(p.rebalance.run)
	}
	return changes
}

// newerLocked returns the pools that were loaded with a later configuration
// than p was.
func (s *poolSet) newerLocked(p *loadedPool) []*loadedPool {
	var newer []*loadedPool
	seen := false
	for _, other := range s.all {
		seen = seen || other == p
		if seen && other.config != p.config {
			newer = append(newer, other)
		}
	}
	return newer
}

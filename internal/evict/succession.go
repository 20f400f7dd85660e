package evict

import (
	"iter"
	"slices"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// lineage is what a tunnel keeps of the pool it was opened by, to find the pool
// that its client would come to today. Reloads make new handlers, and nothing
// but their similarity says which of them takes the place of an old one.
type lineage struct {
	name string // the handler's
	// upstreams are addresses, templates and the configurations of sources, sorted
	// and each once.
	upstreams  []string
	rebalances bool
}

// similarity says how much a pool is like another one. More is more, in the order
// of the elements; without a common upstream there is none.
func (l *lineage) similarity(other *lineage) [3]int {
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

// isAlike reports whether two pools have the same name and upstreams.
func (l *lineage) isAlike(other *lineage) bool {
	return l.name == other.name && slices.Equal(l.upstreams, other.upstreams)
}

// pools are all that are loaded, oldest first.
func (e *Evictor) poolsLocked() iter.Seq[*Pool] {
	return func(yield func(*Pool) bool) {
		for _, g := range e.loaded {
			for _, p := range g.pools {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// matchLocked returns the pool of a configuration that the clients of a lineage come
// to, or nil if that cannot be said. Of pools that are alike it is the first.
func (l *lineage) matchLocked(g *generation) *Pool {
	if l == nil {
		return nil
	}
	var best *Pool
	var most [3]int
	for _, p := range g.pools {
		similarity := l.similarity(p.lineage)
		if similarity[0] > 0 && (best == nil || slices.Compare(similarity[:], most[:]) > 0) {
			best, most = p, similarity
		}
	}
	return best
}

// leadsTo reports whether the clients of a lineage come to a pool, of those of its
// configuration.
func (e *Evictor) leadsTo(l *lineage, p *Pool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return l.matchLocked(p.generation) == p
}

// mayFind reports whether a source is still to give its first answer, of a pool that
// the clients of a lineage come to. Where nothing tells which one that is, it is any
// of this name.
func (e *Evictor) mayFind(l *lineage) bool {
	if l == nil {
		return false
	}
	e.mu.Lock()
	var named []*Pool
	for p := range e.poolsLocked() {
		if p.name == l.name {
			named = append(named, p)
		}
	}
	e.mu.Unlock()
	return slices.ContainsFunc(named, func(p *Pool) bool {
		if !p.Pending() {
			return false
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		match := l.matchLocked(p.generation)
		return match == nil || match == p
	})
}

// ClientGroup tells handlers that count their clients together: those with a name, or
// without one those that are alike or follow each other. It is found as long as the
// pools are there whose place this one takes.
func (e *Evictor) ClientGroup(p *Pool) upstream.ClientGroup {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.clientGroupLocked(p)
}

func (e *Evictor) clientGroupLocked(p *Pool) upstream.ClientGroup {
	if p.clients == nil {
		p.clients = e.findGroupLocked(p)
	}
	return p.clients
}

func (e *Evictor) findGroupLocked(p *Pool) upstream.ClientGroup {
	if p.name != "" {
		return p.name
	}
	var closest *Pool
	var most [3]int
	for old := range e.poolsLocked() {
		switch {
		case old == p: // newer ones follow
			if closest == nil {
				return p.lineage
			}
			return e.clientGroupLocked(closest)
		case old.generation == p.generation:
			if p.isAlike(old.lineage) {
				return e.clientGroupLocked(old)
			}
		default:
			next := old.matchLocked(p.generation)
			if next == nil || !p.isAlike(next.lineage) {
				continue
			}
			similarity := old.similarity(p.lineage)
			if slices.Compare(similarity[:], most[:]) >= 0 { // of alike ones the newest
				closest, most = old, similarity
			}
		}
	}
	return p.lineage
}

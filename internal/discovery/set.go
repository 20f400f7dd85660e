// Package discovery keeps pools filled from sources of upstreams. It looks them up in the
// background, once for all that are configured alike, or in handshakes if they depend on
// the request. It knows neither Caddy nor log lines: how a source is looked up, who is told
// what happens, and what follows from an answer is given to it.
//
// Set.mu, refresher.mu and servers.mu are leaf locks: nothing of others is called under
// them. refresher.filling comes before refresher.mu. It makes a change of what pools have
// from a source one step, and is held while pools and their table are called: these must
// not wait for what a source finds or for its end.
package discovery

import (
	"sync"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Set is what is looked up in the background, by configuration. It outlives
// configurations: a new one adds its sources before the old one releases its own.
type Set struct {
	table  *upstream.Table
	follow func(Outcome)
	callee *outside.Callee

	mu sync.Mutex // guards m, and the users of its elements
	m  map[string]*refresher
}

// Outcome is what follows from an answer, or from that none will come any more.
type Outcome struct {
	// Orphans tells that tunnels may be without an upstream now: some address is not
	// configured any more, or no first answer has to be waited for.
	Orphans bool
	// Joined are newcomers to their pools, and Had those of their addresses that a
	// configuration had before.
	Joined []*upstream.Endpoint
	Had    []string
}

// NewSet makes a set whose pools are of a table. What follows is told without a lock.
func NewSet(t *upstream.Table, follow func(Outcome)) *Set {
	return &Set{table: t, follow: follow, callee: newCallee(), m: make(map[string]*refresher)}
}

// Held returns how many sources are there to be looked up in the background, of those that
// are alike one, and how many calls of them are lost.
func (set *Set) Held() (sources, lost int) {
	set.mu.Lock()
	defer set.mu.Unlock()
	return len(set.m), set.callee.Lost()
}

// Add adds the sources of a pool. They are not looked up before Start, but the pool has
// what was found already. NewServer makes a place in the pool.
func (set *Set) Add(p *upstream.Pool, newServer func(dial string) *upstream.Server, configs []Config) Sources {
	all := make(Sources, len(configs))
	asks := false
	for i, c := range configs {
		all[i] = &Source{Config: c, set: set, pool: p, index: i, newServer: newServer}
		asks = asks || c.Lookup == nil
	}
	p.Grow(len(all), asks)
	for _, s := range all {
		if s.Lookup != nil {
			set.join(s)
		} else {
			s.callee = newCallee()
		}
	}
	return all
}

func (set *Set) join(s *Source) {
	set.mu.Lock()
	d, ok := set.m[s.Key]
	if !ok {
		d = newRefresher(set, s.Interval)
		set.m[s.Key] = d
	}
	d.users++
	set.mu.Unlock()
	s.refresher = d
	d.join(s)
}

// leave takes a source out. It reports whether some upstream is not configured
// any more.
func (set *Set) leave(s *Source) (orphaned bool) {
	orphaned = s.refresher.leave(s)
	set.mu.Lock()
	defer set.mu.Unlock()
	if s.refresher.users--; s.refresher.users == 0 {
		delete(set.m, s.Key)
	}
	return orphaned
}

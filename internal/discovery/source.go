package discovery

import (
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// leaveTimeout is how long calls that are under way when their configuration is
// unloaded may still take.
const leaveTimeout = time.Second

// Observer is told what happens to a source.
type Observer interface {
	// Failing is called when a source begins to fail. So many upstreams that it has
	// found last stay.
	Failing(found int, err error)
	// Recovered is called when it works again.
	Recovered()
	// Unusable is told what is left out of an answer, unless that was so before.
	Unusable(addresses []string)
	// Found is told what an answer has changed.
	Found(added, removed []string)
}

// Config is a source as a configuration has it.
type Config struct {
	// Name is how lists and errors call it, and Key is the same for sources that find
	// the same.
	Name, Key string
	// Lookup is nil if it depends on the request.
	Lookup Lookup
	// Interval is how long to wait between lookups.
	Interval time.Duration
	Observer Observer
}

// Source is a source of a pool.
type Source struct {
	Config

	set       *Set
	pool      *upstream.Pool
	index     int // in the pool
	newServer func(dial string) *upstream.Server

	// refresher looks it up in the background; nil if it depends on the request.
	refresher *refresher
	// runs tells that the configuration is in force. It is guarded by the
	// refresher's mu.
	runs bool
	// endpoints are what was found last. They are guarded by the refresher's filling.
	endpoints []*upstream.Endpoint

	// callee and servers are for a source that depends on the request.
	callee  *outside.Callee
	servers servers
}

// Sources are those of a pool.
type Sources []*Source

// Asked are the names of those that are asked in handshakes.
func (all Sources) Asked() (names []string) {
	for _, s := range all {
		if s.Lookup == nil {
			names = append(names, s.Name)
		}
	}
	return names
}

// ArePending reports whether a source that is looked up in the background has not
// answered yet. It takes no lock.
func (all Sources) ArePending() bool {
	return slices.ContainsFunc(all, func(s *Source) bool {
		return s.refresher != nil && s.refresher.pending.Load()
	})
}

// Start tells that the configuration of the sources is in force.
func (all Sources) Start() {
	for _, s := range all {
		if s.refresher != nil {
			s.refresher.start(s)
		}
	}
}

// Retire tells that the sources, which may be those of several pools, are not to be looked
// up any more, and waits until none of them is. Calls under way are told to come back;
// those that do not are waited for no longer than leaveTimeout together.
func (all Sources) Retire() {
	var leaving []*call
	for _, s := range all {
		if s.refresher == nil {
			continue
		}
		if c := s.refresher.retire(s); c != nil {
			leaving = append(leaving, c)
		}
	}
	outside.Join(leaveTimeout, leaving...)
}

// Release retires the sources and gives back what they have found. It reports whether
// some upstream is not configured any more.
func (all Sources) Release() (orphaned bool) {
	all.Retire()
	for _, s := range all {
		if s.refresher != nil {
			orphaned = s.set.leave(s) || orphaned
		}
	}
	return orphaned
}

// update makes places for what was found, and gives those up that were not. It
// reports whether some upstream is not configured any more. It is called with
// the refresher's filling held.
func (s *Source) update(found []*upstream.Endpoint) (orphaned bool) {
	gone := make(map[string]*upstream.Endpoint)
	for _, e := range s.endpoints {
		gone[e.Key()] = e
	}
	var endpoints []*upstream.Endpoint
	for _, f := range found {
		key := f.Key()
		e, stays := gone[key]
		if !stays || e.Dial != f.Dial {
			e = &upstream.Endpoint{}
			*e = *f
			e.Server = s.newServer(f.Dial)
			e.Host = s.set.table.Name(key, s.Name)
			s.pool.Join(e)
		} else {
			delete(gone, key)
		}
		endpoints = append(endpoints, e)
	}
	s.endpoints = endpoints
	s.pool.Set(s.index, endpoints)
	for _, e := range gone {
		s.pool.Leave(e)
		orphaned = s.set.table.Unname(e.Host, s.Name, true) || orphaned
	}
	return orphaned
}

// endpointsOf returns those of the source's endpoints that have some addresses. It
// is called with the refresher's filling held.
func (s *Source) endpointsOf(addresses []string) []*upstream.Endpoint {
	return slices.DeleteFunc(slices.Clone(s.endpoints), func(e *upstream.Endpoint) bool {
		return !slices.Contains(addresses, e.Host.Address)
	})
}

// release gives up all places. Handshakes that come late may still choose them,
// as they may with configured upstreams. It is called with the refresher's filling held.
func (s *Source) release() (orphaned bool) {
	for _, e := range s.endpoints {
		s.pool.Leave(e)
		orphaned = s.set.table.Unname(e.Host, s.Name, false) || orphaned
	}
	return orphaned
}

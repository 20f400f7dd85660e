package websocketproxy

import (
	"slices"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
)

// leaveTimeout is how long calls that are under way when their configuration is
// unloaded may still take.
const leaveTimeout = time.Second

// discoverySet is what is looked for in the background, by configuration. It
// outlives configurations: a new one joins before the old one leaves.
type discoverySet struct {
	mu sync.Mutex
	m  map[string]*discovery
}

var discoveries = discoverySet{m: make(map[string]*discovery)}

// join adds a source. It is not asked before start, but has what was found
// already.
func (set *discoverySet) join(s *finder) {
	set.mu.Lock()
	d, ok := set.m[s.config]
	if !ok {
		d = newDiscovery(s.interval)
		set.m[s.config] = d
	}
	d.users++
	set.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	s.discovery = d
	d.sources = append(d.sources, s)
	s.update(d.found)
}

// leave takes a source out. It reports whether some upstream is not configured
// any more.
func (set *discoverySet) leave(s *finder) (orphaned bool) {
	d := s.discovery
	d.mu.Lock()
	d.sources = slices.DeleteFunc(d.sources, func(other *finder) bool { return other == s })
	orphaned = s.release()
	d.mu.Unlock()
	set.mu.Lock()
	defer set.mu.Unlock()
	if d.users--; d.users == 0 {
		delete(set.m, s.config)
	}
	return orphaned
}

// retire tells that the sources are not to be asked any more, and waits until
// none of them is. Calls under way are told to come back; those that do not are
// waited for no longer than leaveTimeout together.
func retire(sources []*finder) {
	var leaving []*outside.Call[findings]
	for _, s := range sources {
		if s.discovery == nil {
			continue
		}
		if c := s.discovery.retire(s); c != nil {
			leaving = append(leaving, c)
		}
	}
	outside.Join(leaveTimeout, leaving...)
}

package websocketproxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
)

// clientNetwork is how many bits of an IPv6 address tell clients apart: a host
// has at least all addresses that the other 64 make (RFC 4291 section 2.5.4).
const clientNetwork = 64

// clientPlace is one of a client's among those that it may have. It is held by a
// handshake, and then by its tunnel.
type clientPlace struct {
	table *clientTable
	key   clientKey
}

type clientKey struct {
	group  clientGroup
	prefix netip.Prefix
}

// clientGroup is the handlers that count together: a name, or the lineage of the first
// of those that follow each other without one.
type clientGroup any

// clientGroup is that of a pool's handler. It is found as long as the pools are there
// whose place this one takes.
func (s *poolSet) clientGroup(p *loadedPool) clientGroup {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clientGroupLocked(p)
}

func (s *poolSet) clientGroupLocked(p *loadedPool) clientGroup {
	if p.clients == nil {
		p.clients = s.findGroupLocked(p)
	}
	return p.clients
}

func (s *poolSet) findGroupLocked(p *loadedPool) clientGroup {
	if p.name != "" {
		return p.name
	}
	var closest *loadedPool
	var most [3]int
	for _, old := range s.all {
		switch {
		case old == p: // newer ones follow
			if closest == nil {
				return p.lineage
			}
			return s.clientGroupLocked(closest)
		case old.config == p.config:
			if p.isLike(old) {
				return s.clientGroupLocked(old)
			}
		case p.isLike(s.matchLocked(old.lineage, p.config)):
			likeness := old.likeness(p.lineage)
			if slices.Compare(likeness[:], most[:]) >= 0 { // of alike ones the newest
				closest, most = old, likeness
			}
		}
	}
	return p.lineage
}

// isLike reports whether two pools have the same name and upstreams.
func (p *loadedPool) isLike(other *loadedPool) bool {
	return other != nil && p.name == other.name && slices.Equal(p.upstreams, other.upstreams)
}

// clientTable counts the places of clients where these are limited. It belongs
// to no configuration, as tunnels outlive theirs.
type clientTable struct {
	mu sync.Mutex
	m  map[clientKey]int
}

var clients = clientTable{m: make(map[clientKey]int)}

// enter takes a place unless the client has most already. The place is nil then.
func (t *clientTable) enter(key clientKey, most int) *clientPlace {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[key] >= most {
		return nil
	}
	t.m[key]++
	return &clientPlace{table: t, key: key}
}

// leave gives the place back, if there is one.
func (p *clientPlace) leave() {
	if p == nil {
		return
	}
	t := p.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[p.key]--; t.m[p.key] == 0 {
		delete(t.m, p.key)
	}
}

// clientPrefix returns what a client is known by, or false if nothing is known.
func clientPrefix(ip string) (netip.Prefix, bool) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Prefix{}, false
	}
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = clientNetwork
	}
	prefix, err := addr.Prefix(bits)
	return prefix, err == nil
}

// enter takes the client's place. It is nil without a refusal where places are
// not counted.
func (h *Handler) enter(r *http.Request) (*clientPlace, *refusal) {
	if h.perClient <= 0 {
		return nil, nil
	}
	prefix, known := clientPrefix(clientIP(r))
	if !known {
		return nil, nil
	}
	if p := clients.enter(clientKey{loadedPools.clientGroup(h.loaded), prefix}, h.perClient); p != nil {
		return p, nil
	}
	refused := unavailable(causeClientLimit, fmt.Errorf("the client has %d tunnels already; see max_tunnels_per_client",
		h.perClient))
	refused.status = http.StatusTooManyRequests
	return nil, refused
}

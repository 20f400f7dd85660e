package upstream

import (
	"net/netip"
	"sync"
)

// clientNetwork is how many bits of an IPv6 address tell clients apart: a host
// has at least all addresses that the other 64 make (RFC 4291 section 2.5.4).
const clientNetwork = 64

// Clients counts the places of clients where these are limited. It belongs
// to no configuration, as tunnels outlive theirs. Its lock is a leaf.
type Clients struct {
	mu sync.Mutex
	m  map[clientKey]int
}

// NewClients returns an empty count.
func NewClients() *Clients { return &Clients{m: make(map[clientKey]int)} }

// ClientGroup is what counts its clients together: any comparable value.
type ClientGroup any

type clientKey struct {
	group  ClientGroup
	prefix netip.Prefix
}

// ClientPlace is one of a client's among those that it may have. It is held by a
// handshake, and then by its tunnel.
type ClientPlace struct {
	clients *Clients
	key     clientKey
}

// Enter takes a place in a group unless the client has most already. The place is nil
// then.
func (c *Clients) Enter(group ClientGroup, client netip.Prefix, most int) *ClientPlace {
	key := clientKey{group, client}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[key] >= most {
		return nil
	}
	c.m[key]++
	return &ClientPlace{clients: c, key: key}
}

// Held returns how many clients have places.
func (c *Clients) Held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.m)
}

// Leave gives the place back, if there is one.
func (p *ClientPlace) Leave() {
	if p == nil {
		return
	}
	c := p.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[p.key]--; c.m[p.key] == 0 {
		delete(c.m, p.key)
	}
}

// ClientOf returns what a client is known by, or false if nothing is known.
func ClientOf(ip string) (netip.Prefix, bool) {
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

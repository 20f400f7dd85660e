package sticky

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

const (
	// sessionRest is how long a session is under way after its last request.
	sessionRest = time.Minute
	// mostHomes and mostNetworks bound what is remembered of requests that are over: the
	// homes of one network of clients, and the networks. The oldest are forgotten first.
	mostHomes    = 8
	mostNetworks = 1 << 16
)

// Home is an upstream to which clients belong, over reloads.
type Home struct {
	Group   any // comparable: the pools that it belongs to
	Address string
}

// Sessions tell for which clients a session may be under way at their upstream, as long as
// nothing else says what opens one. A client is known by its network, as all clients of one
// upstream have the same cookie. It belongs to no configuration. Its lock is a leaf.
type Sessions struct {
	mu       sync.Mutex
	networks map[netip.Prefix]*network
	resting  list.List // of networks without visits that are open, by their last request
}

// network is what is known of one network of clients.
type network struct {
	prefix netip.Prefix
	visits []visit
	open   int
	last   time.Time
	rests  *list.Element // nil while a visit is open
}

// visit is what a network has at one upstream.
type visit struct {
	home Home
	open int
	last time.Time
}

// Visit is a handshake, and then its tunnel, or a request.
type Visit struct {
	sessions *Sessions
	network  *network
	home     Home
}

// NewSessions returns none.
func NewSessions() *Sessions { return &Sessions{networks: make(map[netip.Prefix]*network)} }

// Begin is called as a request goes to its home. The visit has to be ended, once.
func (s *Sessions) Begin(now time.Time, client netip.Prefix, home Home) *Visit {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(now)
	n := s.networks[client]
	if n == nil {
		n = &network{prefix: client}
		s.networks[client] = n
	}
	if n.rests != nil {
		s.resting.Remove(n.rests)
		n.rests = nil
	}
	n.open++
	v := n.visitTo(home)
	v.open++
	v.last = now
	return &Visit{sessions: s, network: n, home: home}
}

// Leave ends the visit, if there is one, now.
func (v *Visit) Leave() {
	if v != nil {
		v.End(time.Now())
	}
}

// End is the end of the visit, from which its session rests.
func (v *Visit) End(now time.Time) {
	s, n := v.sessions, v.network
	s.mu.Lock()
	defer s.mu.Unlock()
	at := n.visitTo(v.home)
	at.open--
	at.last = now
	n.last = now
	if n.open--; n.open == 0 {
		n.rests = s.resting.PushBack(n)
	}
	s.forget(now)
}

// UnderWay reports whether a session of a client may be under way at its home.
func (s *Sessions) UnderWay(now time.Time, client netip.Prefix, home Home) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[client]
	if n == nil {
		return false
	}
	for _, v := range n.visits {
		if v.home == home {
			return v.open > 0 || now.Sub(v.last) < sessionRest
		}
	}
	return false
}

// Held returns of how many networks something is known, and how many visits are open.
func (s *Sessions) Held() (networks, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.networks {
		open += n.open
	}
	return len(s.networks), open
}

// forget drops what rests for too long, a few at a time, as each call adds one at most, and
// what is more than may be known.
func (s *Sessions) forget(now time.Time) {
	for range 2 {
		oldest := s.resting.Front()
		if oldest == nil {
			return
		}
		n, _ := oldest.Value.(*network) // which all of them are
		if now.Sub(n.last) < sessionRest && s.resting.Len() <= mostNetworks {
			return
		}
		s.resting.Remove(oldest)
		delete(s.networks, n.prefix)
	}
}

// visitTo returns what the network has at an upstream, in the place of the one that rests
// longest if there are many. Those that are open stay: there are no more than handshakes
// and tunnels.
func (n *network) visitTo(home Home) *visit {
	oldest := -1
	for i := range n.visits {
		v := &n.visits[i]
		if v.home == home {
			return v
		}
		if v.open == 0 && (oldest < 0 || v.last.Before(n.visits[oldest].last)) {
			oldest = i
		}
	}
	if len(n.visits) >= mostHomes && oldest >= 0 {
		n.visits[oldest] = visit{home: home}
		return &n.visits[oldest]
	}
	n.visits = append(n.visits, visit{home: home})
	return &n.visits[len(n.visits)-1]
}

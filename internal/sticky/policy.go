package sticky

import (
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Known is what outlives configurations of those that belong somewhere.
type Known struct {
	*Sessions
	Credits
}

// NewKnown knows nobody.
func NewKnown() *Known { return &Known{Sessions: NewSessions()} }

// Policy is a sticky policy of a pool. It says where clients belong, and not where newcomers
// go. It has no lock of its own.
type Policy struct {
	steps    []step
	known    *Known
	openings []Opening
	group    func() upstream.ClientGroup
}

// step is how a client may be known: a policy, or one that is its fallback.
type step struct {
	*Settings

	cookies *Cookies // nil for a policy that hashes
}

// New makes the policy of a pool, of which group tells which pools are the same. Requests
// that are as an opening says open a session; without any, sessions are what is known of
// clients.
func New(s *Settings, known *Known, openings []Opening, group func() upstream.ClientGroup) *Policy {
	p := &Policy{known: known, openings: openings, group: group}
	for ; s != nil; s = s.Next {
		one := step{Settings: s}
		if s.Policy == Cookie {
			one.cookies = NewCookies(s)
		}
		p.steps = append(p.steps, one)
	}
	return p
}

// Join makes what is needed to know those who belong at e.
func (p *Policy) Join(e *upstream.Endpoint) { p.each(func(c *Cookies) { c.Join(e) }) }

// Leave forgets that.
func (p *Policy) Leave(e *upstream.Endpoint) { p.each(func(c *Cookies) { c.Leave(e) }) }

// Give tells that so many clients of a group have to go from an address, which get credits
// for that. The policy may be nil.
func (p *Policy) Give(group any, address string, clients int) {
	if p != nil {
		p.known.Give(time.Now(), Home{group, address}, clients)
	}
}

func (p *Policy) each(do func(*Cookies)) {
	for _, s := range p.steps {
		if s.cookies != nil {
			do(s.cookies)
		}
	}
}

// Client is one that has sent a request. A nil one is known to nobody.
type Client struct {
	policy     *Policy
	request    *http.Request
	network    netip.Prefix
	candidates *upstream.Candidates
	group      any
	// cookies are those that it is known by, or gets one of, and named whose it has.
	cookies *Cookies
	named   *upstream.Endpoint
	// moved is where it has belonged, if it is to go elsewhere.
	moved *upstream.Endpoint
}

// Know begins to find out where the client belongs for which c are. The policy may be nil.
func (p *Policy) Know(r *http.Request, c *upstream.Candidates) *Client {
	if p == nil {
		return nil
	}
	return &Client{policy: p, request: r, network: c.Client, candidates: c, group: p.group()}
}

// IsKeyless reports whether what clients are known by is empty, for a policy that hashes.
func (c *Client) IsKeyless() bool {
	if c == nil {
		return false
	}
	for _, s := range c.policy.steps {
		if s.cookies == nil && s.Key(c.request) == "" {
			return true
		}
	}
	return false
}

// Place has the next choice know where the client belongs. If uses is true, a credit may be
// used for that.
func (c *Client) Place(uses bool) {
	if c == nil {
		return
	}
	now := time.Now()
	home := c.home(now)
	c.candidates.Home, c.candidates.Session = nil, false
	if home == nil || home == c.moved {
		return
	}
	session := c.isUnderWay(now, home)
	if uses && !session && c.cookies != nil && c.policy.known.Take(now, c.at(home)) {
		c.moved = home
		return
	}
	c.candidates.Home, c.candidates.Session = home, session
}

// home goes by one step after another, until one knows the client.
func (c *Client) home(now time.Time) *upstream.Endpoint {
	c.cookies = nil
	for _, s := range c.policy.steps {
		if s.cookies != nil {
			c.cookies, c.named = s.cookies, s.cookies.Home(c.request, c.candidates.Own())
			if c.named != nil && c.candidates.MayStay(c.named) {
				return c.named
			}
			continue
		}
		key := s.Key(c.request)
		if key == "" {
			continue
		}
		if e := c.winner(now, key); e != nil {
			return e
		}
	}
	return nil
}

// isUnderWay reports whether a session may be under way at home.
func (c *Client) isUnderWay(now time.Time, home *upstream.Endpoint) bool {
	if len(c.policy.openings) == 0 {
		return c.policy.known.UnderWay(now, c.network, c.at(home))
	}
	return !c.opens()
}

// opens reports whether the request is one of those of which is said that they open a session.
func (c *Client) opens() bool {
	for i := range c.policy.openings {
		if c.policy.openings[i].Opens(c.request) {
			return true
		}
	}
	return false
}

func (c *Client) at(e *upstream.Endpoint) Home { return Home{c.group, e.Host.Address} }

// Came is called when e was chosen for the client. It returns what the answer has to tell
// the client, and what is remembered of it, which has to be ended.
func (c *Client) Came(e *upstream.Endpoint) (header http.Header, v *Visit) {
	if c == nil {
		return nil, nil
	}
	if c.cookies != nil && e != c.named {
		header = make(http.Header)
		c.cookies.Set(header, c.request, e)
	}
	return header, c.policy.known.Begin(time.Now(), c.network, c.at(e))
}

// scratch is what a rendezvous needs.
type scratch struct {
	Rendezvous

	places []upstream.Place
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// winner returns where a key belongs: to the first in its order that newcomers may go to, or
// that has a session of the client. If all are full, that does not count.
func (c *Client) winner(now time.Time, key string) *upstream.Endpoint {
	s, _ := scratches.Get().(*scratch) // which all of them are
	defer func() {
		clear(s.places)
		scratches.Put(s)
	}()
	s.places = c.candidates.Places(s.places[:0])
	opens := len(c.policy.openings) > 0 && c.opens()
	for i := range s.places {
		p := &s.places[i]
		if (p.Drains || p.Full) && !opens && c.policy.known.UnderWay(now, c.network, c.at(p.Endpoint)) {
			p.Drains, p.Full = false, false
		}
	}
	for _, full := range []bool{false, true} {
		for rank := range uint8(upstream.Ranks) {
			if e := s.first(key, rank, full); e != nil {
				return e
			}
		}
	}
	return nil
}

// first returns the first of a rank in the order of a key, of those that do not drain.
func (s *scratch) first(key string, rank uint8, full bool) (first *upstream.Endpoint) {
	s.Start(key)
	for i := range s.places {
		p := &s.places[i]
		if p.Rank == rank && !p.Drains && (full || !p.Full) && s.Wins(p.Endpoint.Server.Dial, p.Weight) {
			first = p.Endpoint
		}
	}
	return first
}

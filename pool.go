package websocketproxy

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// pool is the upstreams of a handler and the policy that chooses one.
type pool struct {
	// policy is nil if selector is set: a policy of another module.
	policy   policy
	selector reverseproxy.Selector
	// fixed are the upstreams whose address has no placeholder. The handler
	// holds a reference to the host of each.
	fixed []*endpoint
	// templates are the others: for each, what to expand.
	templates []template
	// scratch is what a pick filters into. It is guarded by hosts.mu.
	scratch []*endpoint
}

type template struct {
	slot *slot
	dial string
}

// candidates are the endpoints that one handshake can choose from.
type candidates struct {
	pool      *pool
	endpoints []*endpoint
	tried     []*slot
	expanded  []*endpoint // hold a host reference until close
}

// candidates expands the pool's placeholders for one handshake. Its close must
// be called.
func (p *pool) candidates(repl *caddy.Replacer) (*candidates, error) {
	c := &candidates{pool: p, endpoints: p.fixed}
	if len(p.templates) == 0 {
		return c, nil
	}
	c.endpoints = append(make([]*endpoint, 0, len(p.fixed)+len(p.templates)), p.fixed...)
	for _, t := range p.templates {
		dial := repl.ReplaceAll(t.dial, "")
		e, err := newEndpoint(t.slot, dial)
		if err != nil {
			c.close()
			return nil, fmt.Errorf("upstream %s became %q: %w", t.dial, dial, err)
		}
		e.template = t.dial
		e.host = hosts.acquire(e.key())
		c.expanded = append(c.expanded, e)
	}
	c.endpoints = append(c.endpoints, c.expanded...)
	return c, nil
}

// close gives back what candidates took.
func (c *candidates) close() {
	for _, e := range c.expanded {
		hosts.release(e.host)
	}
	c.expanded = nil
}

// choice is an endpoint at which a tunnel has been counted. Someone has to
// call hosts.tunnelEnded with its host.
type choice struct {
	endpoint *endpoint
	host     *host
	tunnels  int         // at the host right after the choice
	header   http.Header // what the policy wants the client to get, such as a cookie
}

// choose picks an endpoint that was not tried before and counts a tunnel at
// it, in one step. It returns nil if none is available.
func (c *candidates) choose(r *http.Request) *choice {
	if c.pool.selector != nil {
		return c.chooseForeign(r)
	}
	hosts.mu.Lock()
	defer hosts.mu.Unlock()
	p := c.pool
	p.scratch = eligible(p.scratch[:0], c.endpoints, c.tried)
	e := p.policy.pick(p.scratch, rand.IntN)
	if e == nil {
		return nil
	}
	return c.reserveLocked(e)
}

// chooseForeign lets a selection policy of another module choose. Its code
// runs without the lock, so that it can neither block the other handshakes of
// the process nor deadlock; if its choice has filled up meanwhile, it is asked
// again.
func (c *candidates) chooseForeign(r *http.Request) *choice {
	for range len(c.endpoints) + 1 {
		hosts.mu.Lock()
		options := eligible(nil, c.endpoints, c.tried)
		hosts.mu.Unlock()
		upstreams := make(reverseproxy.UpstreamPool, len(options))
		for i, e := range options {
			upstreams[i] = e.slot.foreign
		}
		// Not the client's header: a choice that comes to nothing must not
		// leave its cookie there.
		w := scratchWriter{header: make(http.Header)}
		i := slices.Index(upstreams, c.pool.selector.Select(upstreams, r, w))
		if i < 0 {
			return nil
		}
		if chosen := c.reserve(options[i]); chosen != nil {
			chosen.header = w.header
			return chosen
		}
	}
	return nil
}

// reserve counts a tunnel at e. It returns nil if e is full.
func (c *candidates) reserve(e *endpoint) *choice {
	hosts.mu.Lock()
	defer hosts.mu.Unlock()
	if !e.takesMore() {
		return nil
	}
	return c.reserveLocked(e)
}

func (c *candidates) reserveLocked(e *endpoint) *choice {
	c.tried = append(c.tried, e.slot)
	h := hosts.reserveLocked(e.host)
	return &choice{endpoint: e, host: h, tunnels: h.tunnels}
}

// nextRound makes the endpoints that were tried eligible again.
func (c *candidates) nextRound() {
	c.tried = c.tried[:0]
}

// scratchWriter is a response that is never sent. It collects the header
// fields that a selection policy sets.
type scratchWriter struct {
	header http.Header
}

func (w scratchWriter) Header() http.Header         { return w.header }
func (w scratchWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w scratchWriter) WriteHeader(int)             {}

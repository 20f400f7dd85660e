package websocketproxy

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

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
	// sources find further upstreams.
	sources []*finder
	found   foundUpstreams
	// slowStart is how long a newcomer gets less than its share; zero means not
	// at all.
	slowStart time.Duration
	// maxTunnels is for upstreams that do not say it themselves.
	maxTunnels int
	queue      queueLimits
	passive    failureLimits
	check      *activeCheck // nil: none
	transport  string       // its configuration, as the dialer has it

	// All are guarded by hosts.mu.
	scratch []*endpoint // what a pick filters into
	waiting []*waiter   // by ticket
	// turn is whose turn it is of those, while they are served, and exhausted
	// tells that there is nothing for those who have no upstreams of their own.
	turn      int
	exhausted bool
}

// join is called for an endpoint whose host is named by this pool's
// configuration, before it can be chosen, and without hosts.mu.
func (p *pool) join(e *endpoint) {
	p.watch(e)
	if p.check != nil {
		p.check.join(e)
	}
}

// leave is called when it cannot be chosen any more.
func (p *pool) leave(e *endpoint) {
	hosts.unwatch(e)
	if p.check != nil {
		p.check.leave(e)
	}
}

type template struct {
	slot *slot
	dial string
	from *provenance
}

// expands reports whether handshakes may have upstreams of their own.
func (p *pool) expands() bool {
	return len(p.templates) > 0 || slices.ContainsFunc(p.sources, func(s *finder) bool { return s.discovery == nil })
}

// candidates are the endpoints that one handshake can choose from.
type candidates struct {
	pool      *pool
	endpoints []*endpoint
	tried     []*slot
	expanded  []*endpoint // hold references until close

	// ticket says who came first, and is set when it is needed. queued tells that
	// the handshake has been let into the queue, and waited how long it was there.
	ticket uint64
	queued bool
	waited time.Duration
}

// candidates expands the pool's placeholders for one handshake. Its close must
// be called. Endpoints that are made here do not join: whether they are healthy
// is not known, and as clients decide what they are, nothing is held against them.
func (p *pool) candidates(repl *caddy.Replacer) (*candidates, error) {
	c := &candidates{pool: p}
	for _, t := range p.templates {
		dial := repl.ReplaceAll(t.dial, "")
		e, err := newEndpoint(t.slot, dial)
		if err != nil {
			c.close()
			return nil, fmt.Errorf("upstream %s became %q: %w", t.dial, dial, err)
		}
		e.from = t.from
		e.host = hosts.acquire(e.key(), "")
		c.expanded = append(c.expanded, e)
	}
	c.renew()
	return c, nil
}

// renew looks at what there is to choose from now.
func (c *candidates) renew() {
	c.endpoints = c.pool.standing()
	if len(c.expanded) > 0 {
		c.endpoints = slices.Concat(c.endpoints, c.expanded)
	}
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
	fails    int         // that passive checks remember
	header   http.Header // what the policy wants the client to get, such as a cookie
}

// chooseLocked picks an endpoint that was not tried before and counts a tunnel
// at it, in one step. It returns nil if none is available. The caller holds
// hosts.mu.
func (c *candidates) chooseLocked() *choice {
	p := c.pool
	p.scratch = eligible(p.scratch[:0], c.endpoints, c.tried)
	options := p.scratch
	if p.slowStart > 0 {
		options = ramped(options, p.slowStart, time.Now(), rand.IntN)
	}
	e := p.policy.pick(options, rand.IntN)
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
	return &choice{endpoint: e, host: h, tunnels: h.tunnels, fails: e.failures.countLocked()}
}

// nextRound makes the endpoints that were tried eligible again, and those that
// were found meanwhile.
func (c *candidates) nextRound() {
	c.tried = c.tried[:0]
	c.renew()
}

// scratchWriter is a response that is never sent. It collects the header
// fields that a selection policy sets.
type scratchWriter struct {
	header http.Header
}

func (w scratchWriter) Header() http.Header         { return w.header }
func (w scratchWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w scratchWriter) WriteHeader(int)             {}

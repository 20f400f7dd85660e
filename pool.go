package websocketproxy

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// pool is the upstreams of a handler and the policy that chooses one.
type pool struct {
	table *hostTable
	// policy is nil if somebody else chooses.
	policy policy
	// fixed are the upstreams whose address has no placeholder. The handler
	// holds a reference to the host of each.
	fixed []*endpoint
	// templates are the others: for each, what to expand.
	templates []template
	// grows tells that sources find further upstreams, and asks that some are asked
	// in handshakes.
	grows, asks bool
	found       foundUpstreams
	// slowStart is how long a newcomer gets less than its share; zero means not
	// at all.
	slowStart time.Duration
	// maxTunnels is for upstreams that do not say it themselves.
	maxTunnels int
	queue      queueLimits
	passive    failureLimits
	// joins and leaves are told when an endpoint can be chosen, and when it cannot any
	// more. They are called without a lock.
	joins, leaves []func(*endpoint)
	transport     string // its configuration, as the dialer has it

	// All are guarded by hosts.mu.
	scratch []*endpoint // what a pick filters into
	waiting []*waiter   // by ticket
	// turn is whose turn it is of those, while they are served, and exhausted
	// tells that there is nothing for those who have no upstreams of their own.
	turn      int
	exhausted bool
}

// newPool makes one without upstreams.
func newPool(table *hostTable) *pool {
	return &pool{table: table}
}

// addFixed adds an upstream whose address has no placeholder.
func (p *pool) addFixed(s *slot, a address) {
	e := newEndpoint(s, a)
	e.host = p.table.name(a.key(), "")
	p.join(e)
	p.fixed = append(p.fixed, e)
}

// addTemplate adds an upstream whose address has some.
func (p *pool) addTemplate(s *slot, dial string) {
	p.table.nameTemplate(dial)
	p.templates = append(p.templates, template{slot: s, dial: dial, from: fromTemplate(dial)})
}

// join is called for an endpoint whose host is named by this pool's
// configuration, before it can be chosen, and without hosts.mu.
func (p *pool) join(e *endpoint) {
	p.watch(e)
	for _, tell := range p.joins {
		tell(e)
	}
}

// leave is called when it cannot be chosen any more.
func (p *pool) leave(e *endpoint) {
	p.table.unwatch(e)
	for _, tell := range p.leaves {
		tell(e)
	}
}

// foundUpstreams are the upstreams of a pool that do not depend on the request,
// if it has sources.
type foundUpstreams struct {
	mu  sync.Mutex    // guards by, and makes changes one step
	by  [][]*endpoint // each source
	all atomic.Pointer[[]*endpoint]
	// some is closed as soon as there are any.
	some     chan struct{}
	someOnce sync.Once
}

// grow tells how many sources find further upstreams, and whether some of them are
// asked in handshakes.
func (p *pool) grow(sources int, asks bool) {
	p.grows, p.asks = true, asks
	p.found.by = make([][]*endpoint, sources)
	p.found.some = make(chan struct{})
}

// standing returns the upstreams that do not depend on the request. What it
// returns does not change.
func (p *pool) standing() []*endpoint {
	if all := p.found.all.Load(); all != nil {
		return *all
	}
	return p.fixed
}

// set sets what a source has found. An address that the pool has already
// does not get a second place.
func (p *pool) set(source int, endpoints []*endpoint) {
	f := &p.found
	f.mu.Lock()
	defer f.mu.Unlock()
	f.by[source] = endpoints
	all := slices.Clone(p.fixed)
	seen := make(map[string]bool)
	for _, e := range p.fixed {
		seen[e.host.address] = true
	}
	for _, endpoints := range f.by {
		for _, e := range endpoints {
			if !seen[e.host.address] {
				seen[e.host.address] = true
				all = append(all, e)
			}
		}
	}
	f.all.Store(&all)
	if len(all) > 0 {
		f.someOnce.Do(func() { close(f.some) })
	}
}

type template struct {
	slot *slot
	dial string
	from *provenance
}

// expands reports whether handshakes may have upstreams of their own.
func (p *pool) expands() bool {
	return len(p.templates) > 0 || p.asks
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

// candidates are those for one handshake, which makes an address of each template
// with expand. Their close must be called. Endpoints that are made here do not join:
// whether they are healthy is not known, and as clients decide what they are, nothing
// is held against them.
func (p *pool) candidates(expand func(dial string) (address, error)) (*candidates, error) {
	c := &candidates{pool: p}
	for _, t := range p.templates {
		a, err := expand(t.dial)
		if err != nil {
			c.close()
			return nil, err
		}
		c.add(newEndpoint(t.slot, a), t.from, "")
	}
	c.renew()
	return c, nil
}

// add adds an endpoint for this handshake, which a source may have found.
func (c *candidates) add(e *endpoint, from *provenance, source string) {
	e.from, e.host = from, c.pool.table.acquire(e.key(), source)
	c.expanded = append(c.expanded, e)
}

// has reports whether there is an endpoint with an address already.
func (c *candidates) has(address string) bool {
	isIt := func(e *endpoint) bool { return e.host.address == address }
	return slices.ContainsFunc(c.pool.standing(), isIt) || slices.ContainsFunc(c.expanded, isIt)
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
		c.pool.table.release(e.host)
	}
	c.expanded = nil
}

// choice is an endpoint at which a tunnel has been counted. Someone has to
// call hosts.tunnelEnded with its host.
type choice struct {
	endpoint *endpoint
	host     *host
	tunnels  int // at the host right after the choice
	fails    int // that passive checks remember
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

// count is how many endpoints there are, eligible or not.
func (c *candidates) count() int { return len(c.endpoints) }

// options are the endpoints that may be chosen now, for who chooses without the lock.
func (c *candidates) options() []*endpoint {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	return eligible(nil, c.endpoints, c.tried)
}

// usable returns how the endpoints are spelled that would be chosen from now, full ones
// too.
func (c *candidates) usable() (dials []string) {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	for class := range classes {
		for _, e := range c.endpoints {
			if e.class() == class && e.isUsable() {
				dials = append(dials, e.slot.dial)
			}
		}
		if len(dials) > 0 {
			break
		}
	}
	return dials
}

// reserve counts a tunnel at e. It returns nil if e is full.
func (c *candidates) reserve(e *endpoint) *choice {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	if !e.takesMore() {
		return nil
	}
	return c.reserveLocked(e)
}

func (c *candidates) reserveLocked(e *endpoint) *choice {
	c.tried = append(c.tried, e.slot)
	h := c.pool.table.reserveLocked(e.host)
	return &choice{endpoint: e, host: h, tunnels: h.tunnels, fails: e.failures.countLocked()}
}

// nextRound makes the endpoints that were tried eligible again, and those that
// were found meanwhile.
func (c *candidates) nextRound() {
	c.tried = c.tried[:0]
	c.renew()
}

// release gives back the pool's references to p.table. Handshakes and tunnels
// have their own. It reports whether some upstream is not configured any more.
func (p *pool) release() (orphaned bool) {
	for _, e := range p.fixed {
		p.leave(e)
		orphaned = p.table.unname(e.host, "", false) || orphaned
	}
	for _, t := range p.templates {
		orphaned = p.table.unnameTemplate(t.dial) || orphaned
	}
	return orphaned
}

// slowSince returns since when an address starts slowly in the pool, or has begun to;
// zero if it was there from the start or is not there.
func (p *pool) slowSince(address string) time.Time {
	endpoints := p.standing()
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	for _, e := range endpoints {
		if e.host.address == address {
			return e.joinedAt()
		}
	}
	return time.Time{}
}

// waitingNow is how many handshakes are in the queue.
func (p *pool) waitingNow() int {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	return len(p.waiting)
}

// occupancy is what an upstream of a pool has, and may have.
type occupancy struct {
	address         string
	tunnels, weight int
	most            int // zero means no limit
	backup          bool
	closed          bool // it gets no tunnels, and keeps those that it has
}

// occupancies are those of the upstreams that do not depend on the request, at one moment.
func (p *pool) occupancies() []occupancy {
	endpoints := p.standing()
	all := make([]occupancy, len(endpoints))
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	for i, e := range endpoints {
		all[i] = e.occupancyLocked()
	}
	return all
}

func (e *endpoint) occupancyLocked() occupancy {
	return occupancy{
		address: e.host.address,
		tunnels: e.host.tunnels,
		weight:  e.slot.weight,
		most:    max(0, e.slot.maxTunnels),
		backup:  e.slot.backup,
		closed:  !e.isUsable() || e.failing,
	}
}

package upstream

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
)

// Pool is the upstreams of a handler and the policy that chooses one.
type Pool struct {
	table *Table
	// Policy is nil if somebody else chooses.
	Policy Policy
	// Keys is how handshakes choose that have a key; nil: they go by the policy, as others.
	Keys *Keys
	// Fixed are the upstreams whose address has no placeholder. The handler
	// holds a reference to the host of each.
	Fixed []*Endpoint
	// Templates are the others: for each, what to expand.
	Templates []template
	// asks tells that sources are asked in handshakes.
	asks  bool
	Found foundUpstreams
	// SlowStart is how long a newcomer gets less than its share; zero means not
	// at all.
	SlowStart time.Duration
	// These are for upstreams that do not say it themselves: as in Server.
	MaxTunnels    int
	MaxHandshakes int
	HandshakeRate HandshakeRate
	Queue         QueueLimits
	Passive       FailureLimits
	// GoesByLoad tells that newcomers go by what upstreams say of their load.
	GoesByLoad bool
	// Joins and leaves are told when an endpoint can be chosen, and when it cannot any
	// more. They are called without a lock.
	Joins, Leaves []func(*Endpoint)
	Transport     string // its configuration, as the dialer has it

	// All are guarded by the table's lock.
	slots    []Slot // of the endpoints that stand in it
	released bool   // they are not kept up to date any more
	scratch  []Slot // for a handshake that has endpoints of its own
	hidden   []hiddenSlot
	// weighed is when shares were reckoned last.
	weighed  time.Time
	portions []portion
	// pace is how long a handshake usually takes.
	pace time.Duration
	// slowUntil is when the last slow start ends.
	slowUntil time.Time
	// nextPass is when time may let handshakes begin at some that are full.
	nextPass time.Time
	// queue are those who may go to any upstream, and bound are all who wait; nil if
	// nobody has waited yet.
	queue *queue
	bound *limit.Fair[netip.Prefix, *waiter]
	retry limit.RetryAfter[netip.Prefix]
}

// NewPool makes one without upstreams.
func NewPool(table *Table) *Pool {
	return &Pool{table: table}
}

// AddFixed adds an upstream whose address has no placeholder.
func (p *Pool) AddFixed(s *Server, a Address) {
	e := NewEndpoint(s, a)
	e.Host = p.table.Name(a.Key(), "")
	p.Join(e)
	p.Fixed = append(p.Fixed, e)
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	p.addSlotLocked(e)
}

// AddTemplate adds an upstream whose address has some.
func (p *Pool) AddTemplate(s *Server, dial string) {
	p.table.nameTemplate(dial)
	p.Templates = append(p.Templates, template{server: s, Dial: dial, from: FromTemplate(dial)})
}

// Join is called for an endpoint whose host is named by this pool's
// configuration, before it can be chosen, and without the lock.
func (p *Pool) Join(e *Endpoint) {
	p.watch(e)
	for _, tell := range p.Joins {
		tell(e)
	}
}

// Leave is called when it cannot be chosen any more.
func (p *Pool) Leave(e *Endpoint) {
	p.table.unwatch(e)
	for _, tell := range p.Leaves {
		tell(e)
	}
}

// foundUpstreams are the upstreams of a pool that do not depend on the request,
// if it has sources.
type foundUpstreams struct {
	mu  sync.Mutex    // guards by, and makes changes one step
	by  [][]*Endpoint // each source
	all atomic.Pointer[[]*Endpoint]
	// Some is closed as soon as there are any.
	Some     chan struct{}
	someOnce sync.Once
}

// Grow tells how many sources find further upstreams, and whether some of them are
// asked in handshakes.
func (p *Pool) Grow(sources int, asks bool) {
	p.asks = asks
	p.Found.by = make([][]*Endpoint, sources)
	p.Found.Some = make(chan struct{})
}

// Standing returns the upstreams that do not depend on the request. What it
// returns does not change.
func (p *Pool) Standing() []*Endpoint {
	if all := p.Found.all.Load(); all != nil {
		return *all
	}
	return p.Fixed
}

// Set sets what a source has found. An address that the pool has already
// does not get a second place.
func (p *Pool) Set(source int, endpoints []*Endpoint) {
	f := &p.Found
	f.mu.Lock()
	defer f.mu.Unlock()
	f.by[source] = endpoints
	all := slices.Clone(p.Fixed)
	seen := make(map[string]bool)
	for _, e := range p.Fixed {
		seen[e.Host.Address] = true
	}
	for _, endpoints := range f.by {
		for _, e := range endpoints {
			if !seen[e.Host.Address] {
				seen[e.Host.Address] = true
				all = append(all, e)
			}
		}
	}
	f.all.Store(&all)
	p.stand(all)
	if len(all) > 0 {
		f.someOnce.Do(func() { close(f.Some) })
	}
}

type template struct {
	server *Server
	Dial   string
	from   *Provenance
}

// Expands reports whether handshakes may have upstreams of their own.
func (p *Pool) Expands() bool {
	return len(p.Templates) > 0 || p.asks
}

// Candidates are the endpoints that one handshake can choose from.
type Candidates struct {
	pool     *Pool
	tried    []*Server
	expanded []*Endpoint // hold references until close

	// Home is where the client belongs, by a policy that knows it; nil for a newcomer. If no
	// handshake may begin there now, it waits for that. If the upstream cannot be had, or has
	// as many tunnels as it may have, the client is as a newcomer, unless a Session is under
	// way, which cannot go on elsewhere: it is refused where there is no tunnel for it.
	Home    *Endpoint
	Session bool
	// Client is whose handshake it is, by ClientOf: clients are served in turn.
	Client netip.Prefix

	// queued tells that the handshake has been let into the queue, and Waited how long it
	// was there. roams tells that it waits, or has waited, for any upstream.
	queued, roams bool
	Waited        time.Duration

	// Key is that of a handshake that has one, which is a member of a room then: one of
	// those with the same key in group.
	Key    uint64
	HasKey bool
	group  any

	// Waiting counts handshakes that wait; nil: nobody wants to know.
	Waiting *atomic.Int64
}

// Candidates are those for one handshake, which makes an address of each template
// with expand. Their close must be called. Endpoints that are made here do not join:
// whether they are healthy is not known, and as clients decide what they are, nothing
// is held against them.
func (p *Pool) Candidates(expand func(dial string) (Address, error)) (*Candidates, error) {
	c := &Candidates{pool: p}
	for _, t := range p.Templates {
		a, err := expand(t.Dial)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.Add(NewEndpoint(t.server, a), t.from, "")
	}
	return c, nil
}

// Add adds an endpoint for this handshake, which a source may have found.
func (c *Candidates) Add(e *Endpoint, from *Provenance, source string) {
	e.From, e.Host = from, c.pool.table.acquire(e.Key(), source)
	c.expanded = append(c.expanded, e)
}

// Has reports whether there is an endpoint with an address already.
func (c *Candidates) Has(address string) bool {
	isIt := func(e *Endpoint) bool { return e.Host.Address == address }
	return slices.ContainsFunc(c.pool.Standing(), isIt) || slices.ContainsFunc(c.expanded, isIt)
}

// Endpoints are what there is to choose from now.
func (c *Candidates) Endpoints() []*Endpoint {
	if len(c.expanded) == 0 {
		return c.pool.Standing()
	}
	return slices.Concat(c.pool.Standing(), c.expanded)
}

// Close gives back what candidates took.
func (c *Candidates) Close() {
	for _, e := range c.expanded {
		c.pool.table.release(e.Host)
	}
	c.expanded = nil
}

// Choice is an endpoint at which a tunnel and a handshake have been counted. Someone has to
// call Table.GiveBack with it. If it becomes a tunnel, that is Table.HandshakeEnded, and at
// its end Table.TunnelEnded with the host and Leave of the room.
type Choice struct {
	Endpoint *Endpoint
	Host     *Host
	Room     *RoomPlace // nil without a key
	Tunnels  int        // at the host right after the choice
	Fails    int        // that passive checks remember

	// Trial tells that the upstream is doubtful, and tried.
	Trial bool
	// Late is how long its answer may take before it is late, and Overdue tells that it is.
	Late    time.Duration
	Overdue bool
	// IsWitness tells that it was chosen to find out whether another one is to blame.
	IsWitness bool

	pool     *Pool
	ticket   limit.Ticket
	answered bool // HandshakeEnded was called
}

// Count is how many endpoints there are, eligible or not.
func (c *Candidates) Count() int { return len(c.Endpoints()) }

// Reserve counts a tunnel at e. It returns nil if e is full.
func (c *Candidates) Reserve(e *Endpoint) *Choice {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	if !e.takesMore() {
		return nil
	}
	return c.reserveLocked(e)
}

func (c *Candidates) reserveLocked(e *Endpoint) *Choice {
	c.tried = append(c.tried, e.Server)
	t := c.pool.table
	if e == c.Home {
		t.cameLocked(e.Host)
	}
	h, ticket := t.reserveLocked(e.Host)
	t.underWay++
	c.pool.retry.Served(time.Now())
	trial := e.beginTrialLocked(c.pool, time.Now())
	return &Choice{
		Endpoint: e, Host: h, Room: c.joinRoomLocked(h), Tunnels: h.tunnels, Fails: e.Failures.countLocked(), ticket: ticket,
		Trial: trial, Late: c.pool.lateLocked(trial), pool: c.pool,
	}
}

// NextRound makes the endpoints that were tried eligible again.
func (c *Candidates) NextRound() { c.tried, c.roams = c.tried[:0], false }

// Release gives back the pool's references to p.table. Handshakes and tunnels
// have their own. It reports whether some upstream is not configured any more.
func (p *Pool) Release() (orphaned bool) {
	p.retire()
	for _, e := range p.Fixed {
		p.Leave(e)
		orphaned = p.table.Unname(e.Host, "", false) || orphaned
	}
	for _, t := range p.Templates {
		orphaned = p.table.unnameTemplate(t.Dial) || orphaned
	}
	return orphaned
}

// SlowSince returns since when an address starts slowly in the pool, or has begun to;
// zero if it was there from the start or is not there.
func (p *Pool) SlowSince(address string) time.Time {
	endpoints := p.Standing()
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	for _, e := range endpoints {
		if e.Host.Address == address {
			return e.slowSince()
		}
	}
	return time.Time{}
}

// WaitingNow is how many handshakes are in the queue.
func (p *Pool) WaitingNow() int {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	if p.bound == nil {
		return 0
	}
	return p.bound.Len()
}

// Occupancy is what an upstream of a pool has, and may have.
type Occupancy struct {
	Address string
	Tunnels int
	Weight  float64 // what is configured, and what an agent has made of it
	Most    int     // zero means no limit
	Backup  bool
	Closed  bool // it gets no tunnels, and keeps those that it has
}

// Occupancies are those of the upstreams that do not depend on the request, at one moment.
func (p *Pool) Occupancies() []Occupancy {
	endpoints := p.Standing()
	all := make([]Occupancy, len(endpoints))
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	for i, e := range endpoints {
		all[i] = e.occupancyLocked()
	}
	return all
}

func (e *Endpoint) occupancyLocked() Occupancy {
	return Occupancy{
		Address: e.Host.Address,
		Tunnels: e.Host.tunnels,
		Weight:  float64(e.word.scale(e.Server.Weight)) / weightScale,
		Most:    max(0, e.mostLocked()),
		Backup:  e.Server.Backup,
		Closed:  !e.isUsable() || e.failing,
	}
}

package metrics

import (
	"math"
	"slices"
	"time"
)

// Status is what holds for an upstream: of several, the last one.
type Status int

// The statuses. Doubtful is an upstream that gets newcomers only if no other one of its kind
// can take them.
const (
	Usable Status = iota
	Doubtful
	Full
	Failing
	Down
	Drain
	Maint
	Evict
	Removed // left the configuration or the source, and tunnels remain
	statusCount
)

func (s Status) String() string {
	return [statusCount]string{"usable", "doubtful", "full", "failing", "down", "drain", "maint", "evict", "removed"}[s]
}

// states are those that an operator gives.
var states = []string{"ready", "drain", "maint", "evict"}

// Standing is what is so at an upstream.
type Standing struct {
	// Upstream is how the configuration has it.
	Upstream string
	Status   Status
	// Limit is how many tunnels it may have; zero: any number.
	Limit int
	// HandshakesLimit is how many handshakes may be under way at it, set or found out; zero:
	// any number. Handshakes is how many are.
	HandshakesLimit, Handshakes int
	// Weight is what it weighs in a choice, and Reweighed tells that this is not what is
	// configured.
	Weight    float64
	Reweighed bool
	// Load is the utilisation that it has reported; 0: nothing.
	Load float64
	// Checked tells that active checks have said something, and Up what.
	Checked, Up bool
	// State is an operator's, and Since when it was given; zero: none.
	State string
	Since time.Time
}

// refreshInterval is how old gauges of upstreams may be.
const refreshInterval = time.Second

// Config is a handler's configuration that is in force.
type Config struct {
	metrics    *Metrics
	handler    *Handler
	queueLimit int64
	standings  func() []Standing
	// pairs are those of its upstreams, by how it has them. Like stopped, it is guarded by
	// the metrics' mu.
	pairs   map[string]*held
	stopped bool
}

// held is a pair that a configuration has, and when it was last seen to.
type held struct {
	pair  *Pair
	round uint64
}

// refresher looks at the upstreams of all configurations once a second, for as long as
// there are some.
type refresher struct{ stop, ended chan struct{} }

// Start shows the metrics of a handler that is in force: of its name, its upstreams, of
// which standings tells once a second, and how many may wait for them.
func (m *Metrics) Start(name string, queueLimit int, standings func() []Standing) *Config {
	c := &Config{
		metrics: m, handler: m.Handler(name), queueLimit: int64(queueLimit), standings: standings, pairs: make(map[string]*held),
	}
	m.mu.Lock()
	m.configs = append(m.configs, c)
	if r := &m.refresher; r.stop == nil {
		*r = refresher{make(chan struct{}), make(chan struct{})}
		go m.refreshUntil(r.stop, r.ended)
	}
	m.mu.Unlock()
	m.refresh()
	return c
}

// Stop is called when the configuration is not in force any more.
func (c *Config) Stop() {
	m := c.metrics
	var r refresher
	m.mu.Lock()
	m.configs = slices.DeleteFunc(m.configs, func(other *Config) bool { return other == c })
	c.stopped = true
	for _, h := range c.pairs {
		c.leaveLocked(h.pair)
	}
	c.pairs = nil
	if len(m.configs) == 0 {
		r, m.refresher = m.refresher, refresher{}
	}
	m.mu.Unlock()
	if r.stop != nil {
		close(r.stop)
		<-r.ended
	}
	m.refresh()
}

func (c *Config) leaveLocked(p *Pair) {
	p.configs.Add(-1)
	p.leaveLocked(c.metrics.clock())
}

func (m *Metrics) refreshUntil(stop <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	ticker := time.NewTicker(refreshInterval)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			m.refresh()
		}
	}
}

// refresh asks for all standings and shows them. Two of them at a time do no harm: what
// the older one has found out holds for a second.
func (m *Metrics) refresh() {
	m.mu.Lock()
	configs := slices.Clone(m.configs)
	m.mu.Unlock()
	found := make([][]Standing, len(configs))
	for i, c := range configs {
		found[i] = c.standings()
	}
	m.mu.Lock()
	defer m.unlock()
	m.round++
	limits := make(map[*Handler]int64)
	for i, c := range configs {
		if !c.stopped {
			limits[c.handler] += c.queueLimit
			c.applyLocked(found[i])
		}
	}
	for _, h := range m.handlers.all {
		h.queueLimit.Store(limits[h])
		for status := range Removed {
			h.statuses[status].Store(h.next[status])
			h.next[status] = 0
		}
	}
}

// applyLocked takes over what was found out about the upstreams of a configuration.
func (c *Config) applyLocked(found []Standing) {
	m := c.metrics
	for _, s := range found {
		h := c.pairs[s.Upstream]
		if h == nil {
			h = &held{pair: m.pairLocked(c.handler, s.Upstream)}
			h.pair.useLocked()
			h.pair.configs.Add(1)
			c.pairs[s.Upstream] = h
		}
		h.round = m.round
		h.pair.standLocked(s, m.round)
	}
	for upstream, h := range c.pairs {
		if h.round != m.round {
			delete(c.pairs, upstream)
			c.leaveLocked(h.pair)
		}
	}
}

// standLocked takes over what was found out about an upstream. If several have it, it
// counts once, with the last status.
func (p *Pair) standLocked(s Standing, round uint64) {
	h, u := p.handler, p.site
	switch isOther := u.name == otherUpstream; {
	case isOther:
		h.next[s.Status]++
		return
	case p.round != round:
		p.round, p.next = round, s.Status
		h.next[s.Status]++
		p.limit.Store(int64(s.Limit))
		p.handshakesLimit.Store(int64(s.HandshakesLimit))
		p.weight.Store(math.Float64bits(s.Weight))
		p.reweighed.Store(s.Reweighed)
	case s.Status > p.next:
		h.next[p.next]--
		h.next[s.Status]++
		p.next = s.Status
	}
	isFirst := u.round != round
	u.round = round
	if isFirst || s.Load > 0 {
		u.load.Store(math.Float64bits(s.Load))
	}
	if isFirst {
		u.handshakes.Store(notLimited)
	}
	if s.HandshakesLimit > 0 {
		u.handshakes.Store(int64(s.Handshakes))
	}
	switch {
	case !s.Checked && isFirst:
		u.up.Store(unchecked)
	case s.Checked && !s.Up:
		u.up.Store(0)
	case s.Checked && (isFirst || u.up.Load() == unchecked):
		u.up.Store(1)
	}
	u.state.Store(s.State)
	u.stateSet.Store(0)
	if !s.Since.IsZero() {
		u.stateSet.Store(s.Since.UnixNano())
	}
}

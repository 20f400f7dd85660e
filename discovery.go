package websocketproxy

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const (
	// minPollInterval and maxPollInterval bound how often a source is asked in
	// the background.
	minPollInterval = 100 * time.Millisecond
	maxPollInterval = time.Second
	// pollTimeout is how long it may take to answer then.
	pollTimeout = 5 * time.Second
)

// discovery asks a source in the background, on behalf of all sources of the
// process that are configured alike.
type discovery struct {
	users    int // guarded by the set's mu
	interval time.Duration
	// pending is set while the source runs and has not found anything yet.
	pending atomic.Bool
	// tried is closed when the source has answered, or has not in time.
	tried     chan struct{}
	triedOnce sync.Once

	mu sync.Mutex // guards what follows; hosts.mu and a pool's may be taken inside
	// sources are those of the loaded configurations, oldest first.
	sources []*finder
	loop    *outside.Loop[findings] // nil if there is nobody to ask
	// call is that whose answer is awaited, asked its source, and began when.
	call  *outside.Call[findings]
	asked *finder
	began time.Time
	// found is the last good answer, and invalid what was left out of it.
	found   []*upstream.Endpoint
	invalid []string
	// trouble is why there is no newer answer; nil if there is one.
	trouble error
}

func newDiscovery(interval time.Duration) *discovery {
	return &discovery{interval: interval, tried: make(chan struct{})}
}

// start tells that the source's configuration is in force. From now on it is the
// one that is asked.
func (d *discovery) start(s *finder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.runs = true
	if d.loop != nil {
		return
	}
	var loop *outside.Loop[findings]
	loop = outside.NewLoop(outside.Caller[findings]{
		Tick:    func() time.Duration { return d.interval },
		Begin:   func() *outside.Call[findings] { return d.begin(loop) },
		Settle:  d.settle,
		Overdue: d.overdue,
	})
	d.loop = loop
	d.pending.Store(d.found == nil)
	loop.Start()
}

// retire returns the call of the source that was under way, unless that is
// overdue anyway. If there is nobody else to ask, it ends the loop, which takes
// no time.
func (d *discovery) retire(s *finder) (leaving *outside.Call[findings]) {
	d.mu.Lock()
	if !s.runs {
		d.mu.Unlock()
		return nil
	}
	s.runs = false
	loop := d.loop
	abandoned := d.call != nil && d.asked == s
	if abandoned {
		if !d.call.IsLate() {
			leaving = d.call
		}
		d.call.Abandon()
		d.call, d.asked = nil, nil
	}
	ends, pending := d.askedLocked() == nil, false
	if ends {
		d.loop, pending = nil, d.pending.Swap(false)
	}
	d.mu.Unlock()
	switch {
	case ends:
		loop.Stop()
	case abandoned:
		loop.Wake() // who is there asks at once
	}
	if pending {
		evictions.orphans()
	}
	return leaving
}

// askedLocked returns the source to ask, which is the newest in force.
func (d *discovery) askedLocked() *finder {
	for _, s := range slices.Backward(d.sources) {
		if s.runs {
			return s
		}
	}
	return nil
}

// begin asks the source that is to be asked, for a loop.
func (d *discovery) begin(loop *outside.Loop[findings]) *outside.Call[findings] {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.askedLocked()
	if s == nil || d.loop != loop {
		return nil // the end is near
	}
	d.asked, d.began = s, time.Now()
	d.call = s.ask(requestForNobody(), pollTimeout)
	return d.call
}

// awaits returns the source that a call has asked, or nil if its answer is not awaited
// any more.
func (d *discovery) awaits(c *outside.Call[findings]) *finder {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.call != c {
		return nil
	}
	return d.asked
}

// settle takes over an answer, and returns when to ask again.
func (d *discovery) settle(c *outside.Call[findings]) time.Duration {
	d.mu.Lock()
	if d.call != c {
		d.mu.Unlock()
		return 0
	}
	s, took := d.asked, time.Since(d.began)
	d.call, d.asked = nil, nil
	d.mu.Unlock()
	if a, _, err := c.Result(); err == nil {
		d.succeed(s, a)
	} else {
		d.fail(s, err)
	}
	// A source that fails slowly may keep others waiting meanwhile.
	return d.interval + min(took, pollTimeout)
}

func (d *discovery) overdue(c *outside.Call[findings]) {
	if s := d.awaits(c); s != nil {
		d.fail(s, fmt.Errorf("no answer within %v", pollTimeout))
	}
}

// fail notes why there is no answer, with a line when that begins.
func (d *discovery) fail(s *finder, err error) {
	d.mu.Lock()
	first, found := d.trouble == nil, len(d.found)
	d.trouble = err
	d.mu.Unlock()
	if first {
		s.log.Warn("upstream source fails; what it has found last stays", zap.Int("found", found), failure(err))
	}
	d.triedOnce.Do(func() { close(d.tried) })
}

// succeed makes a good answer count.
func (d *discovery) succeed(s *finder, a findings) {
	d.mu.Lock()
	was := d.found
	d.found = a.found
	d.logLocked(s.log, a, was)
	newcomers := newcomers(was, a.found)
	had := hosts.NamedOf(newcomers) // before this answer names them too
	orphaned := false
	if !slices.EqualFunc(was, a.found, func(a, b *upstream.Endpoint) bool { return a.Dial == b.Dial }) {
		for _, s := range d.sources {
			orphaned = s.update(a.found) || orphaned
		}
	}
	var joined []*upstream.Endpoint
	for _, s := range d.sources {
		joined = append(joined, s.endpointsOf(newcomers)...)
	}
	decided := d.pending.Swap(false) // now that the pools have it
	d.mu.Unlock()
	d.triedOnce.Do(func() { close(d.tried) })
	if decided || orphaned {
		evictions.orphans()
	}
	discovered(joined, had)
}

// newcomers returns the addresses that an answer has brought. In a first one,
// which all are in, there are none unless others are known already.
func newcomers(was, is []*upstream.Endpoint) []string {
	all := missing(was, is)
	if was != nil {
		return all
	}
	all = slices.DeleteFunc(all, hosts.IsKnown)
	if len(all) == len(is) {
		return nil
	}
	return all
}

// logLocked writes what is new in an answer.
func (d *discovery) logLocked(log *zap.Logger, a findings, was []*upstream.Endpoint) {
	if d.trouble != nil {
		d.trouble = nil
		log.Info("upstream source works again")
	}
	if len(a.invalid) > 0 && !slices.Equal(a.invalid, d.invalid) {
		log.Warn(foundUnusable, zap.Strings("upstreams", a.invalid))
	}
	d.invalid = a.invalid
	added, removed := missing(was, a.found), missing(a.found, was)
	if len(added) > 0 || len(removed) > 0 {
		log.Info("upstreams found", zap.Strings("added", added), zap.Strings("removed", removed))
	}
}

// missing returns the addresses of all that are not among some.
func missing(some, all []*upstream.Endpoint) []string {
	known := make(map[string]bool, len(some))
	for _, e := range some {
		known[e.Key()] = true
	}
	addresses := []string{}
	for _, e := range all {
		if key := e.Key(); !known[key] {
			addresses = append(addresses, key)
		}
	}
	return addresses
}

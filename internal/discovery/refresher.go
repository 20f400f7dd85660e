package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// pollTimeout is how long a source may take that is looked up in the background.
const pollTimeout = 5 * time.Second

// refresher looks a source up in the background, on behalf of all sources of the
// process that are configured alike.
type refresher struct {
	set      *Set
	users    int // guarded by the set's mu
	interval time.Duration
	// pending is set while the source runs and has not found anything yet.
	pending atomic.Bool
	// tried is closed when the source has answered, or has not in time.
	tried     chan struct{}
	triedOnce sync.Once

	filling sync.Mutex // see the package

	mu sync.Mutex // guards what follows
	// sources are those of the loaded configurations, oldest first. They change under
	// both locks.
	sources []*Source
	loop    *outside.Loop[answer] // nil if there is nobody to ask
	// call is that whose answer is awaited, asked its source, and began when.
	call  *call
	asked *Source
	began time.Time
	// found is the last good answer that the pools have, and unusable what was left out
	// of it.
	found    []*upstream.Endpoint
	unusable []string
	// trouble is why there is no newer answer; nil if there is one.
	trouble error
}

func newRefresher(set *Set, interval time.Duration) *refresher {
	return &refresher{set: set, interval: interval, tried: make(chan struct{})}
}

// join adds a source, whose pool gets what was found already.
func (d *refresher) join(s *Source) {
	d.filling.Lock()
	defer d.filling.Unlock()
	d.mu.Lock()
	d.sources = append(d.sources, s)
	found := d.found
	d.mu.Unlock()
	s.update(found)
}

// leave takes a source out that has retired.
func (d *refresher) leave(s *Source) (orphaned bool) {
	d.filling.Lock()
	defer d.filling.Unlock()
	d.mu.Lock()
	d.sources = slices.DeleteFunc(d.sources, func(other *Source) bool { return other == s })
	d.mu.Unlock()
	return s.release()
}

// start tells that the source's configuration is in force. From now on it is the
// one that is asked.
func (d *refresher) start(s *Source) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.runs = true
	if d.loop != nil {
		return
	}
	var loop *outside.Loop[answer]
	loop = outside.NewLoop(outside.Caller[answer]{
		Tick:    func() time.Duration { return d.interval },
		Begin:   func() *call { return d.begin(loop) },
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
func (d *refresher) retire(s *Source) (leaving *call) {
	d.mu.Lock()
	if !s.runs {
		d.mu.Unlock()
		return nil
	}
	s.runs = false
	loop := d.loop
	var abandoned *call
	if d.asked == s {
		abandoned = d.call
		d.call, d.asked = nil, nil
	}
	ends, pending := d.askedLocked() == nil, false
	if ends {
		d.loop, pending = nil, d.pending.Swap(false)
	}
	d.mu.Unlock()
	if abandoned != nil {
		if !abandoned.IsLate() {
			leaving = abandoned
		}
		abandoned.Abandon()
	}
	switch {
	case ends:
		loop.Stop()
	case abandoned != nil:
		loop.Wake() // who is there asks at once
	}
	if pending {
		d.set.follow(Outcome{Orphans: true})
	}
	return leaving
}

// askedLocked returns the source to ask, which is the newest in force.
func (d *refresher) askedLocked() *Source {
	for _, s := range slices.Backward(d.sources) {
		if s.runs {
			return s
		}
	}
	return nil
}

// begin asks the source that is to be asked, for a loop.
func (d *refresher) begin(loop *outside.Loop[answer]) *call {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.askedLocked()
	if s == nil || d.loop != loop {
		return nil // the end is near
	}
	d.asked, d.began = s, time.Now()
	d.call = s.Lookup.start(context.Background(), pollTimeout, d.set.callee)
	return d.call
}

// settle takes over an answer, and returns when to ask again.
func (d *refresher) settle(c *call) time.Duration {
	d.filling.Lock() // an answer that comes later counts later
	s, took := d.take(c)
	if s == nil {
		d.filling.Unlock()
		return 0
	}
	a, _, err := c.Result()
	if err != nil {
		d.filling.Unlock()
		d.fail(s, err)
	} else {
		follows, news := d.fill(a)
		d.filling.Unlock()
		news.tell(s.Observer)
		d.triedOnce.Do(func() { close(d.tried) })
		d.set.follow(follows)
	}
	// A source that fails slowly may keep others waiting meanwhile.
	return d.interval + min(took, pollTimeout)
}

// take ends that a call is awaited. It returns the source that was asked, or nil if its
// answer is not awaited any more, and how long it took.
func (d *refresher) take(c *call) (s *Source, took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.call != c {
		return nil, 0
	}
	s, took = d.asked, time.Since(d.began)
	d.call, d.asked = nil, nil
	return s, took
}

func (d *refresher) overdue(c *call) {
	d.mu.Lock()
	s := d.asked
	isAwaited := d.call == c
	d.mu.Unlock()
	if isAwaited {
		d.fail(s, fmt.Errorf("no answer within %v", pollTimeout))
	}
}

// fail notes why there is no answer, and tells when that begins.
func (d *refresher) fail(s *Source, err error) {
	d.mu.Lock()
	first, found := d.trouble == nil, len(d.found)
	d.trouble = err
	d.mu.Unlock()
	if first {
		s.Observer.Failing(found, err)
	}
	d.triedOnce.Do(func() { close(d.tried) })
}

// news is what an answer has changed.
type news struct {
	recovered                bool
	unusable, added, removed []string
}

// fill makes a good answer count in all pools. It is called with filling held.
func (d *refresher) fill(a answer) (Outcome, news) {
	d.mu.Lock()
	was, sources := d.found, d.sources
	news := news{recovered: d.trouble != nil, unusable: a.unusable}
	if slices.Equal(a.unusable, d.unusable) {
		news.unusable = nil // which was told
	}
	d.mu.Unlock()
	news.added, news.removed = missing(was, a.found), missing(a.found, was)

	newcomers := newcomers(d.set.table, was, a.found)
	follows := Outcome{Had: d.set.table.NamedOf(newcomers)} // before this answer names them too
	if !slices.EqualFunc(was, a.found, func(a, b *upstream.Endpoint) bool { return a.Dial == b.Dial }) {
		for _, s := range sources {
			follows.Orphans = s.update(a.found) || follows.Orphans
		}
	}
	for _, s := range sources {
		follows.Joined = append(follows.Joined, s.endpointsOf(newcomers)...)
	}
	d.mu.Lock()
	d.found, d.unusable, d.trouble = a.found, a.unusable, nil
	follows.Orphans = d.pending.Swap(false) || follows.Orphans // now that the pools have it
	d.mu.Unlock()
	return follows, news
}

func (n news) tell(o Observer) {
	if n.recovered {
		o.Recovered()
	}
	if len(n.unusable) > 0 {
		o.Unusable(n.unusable)
	}
	if len(n.added) > 0 || len(n.removed) > 0 {
		o.Found(n.added, n.removed)
	}
}

// problem returns why nothing has been found yet.
func (d *refresher) problem() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.found != nil:
		return nil
	case d.trouble != nil:
		return d.trouble
	}
	return errors.New("no answer yet")
}

// newcomers returns the addresses that an answer has brought. In a first one,
// which all are in, there are none unless others are known already.
func newcomers(t *upstream.Table, was, is []*upstream.Endpoint) []string {
	all := missing(was, is)
	if was != nil {
		return all
	}
	all = slices.DeleteFunc(all, t.IsKnown)
	if len(all) == len(is) {
		return nil
	}
	return all
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

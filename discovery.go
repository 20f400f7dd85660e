package websocketproxy

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

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
// process that are configured alike. Its goroutine never waits for an answer: a
// call is another goroutine's, one at a time.
type discovery struct {
	users    int // guarded by the set's mu
	interval time.Duration
	wake     chan struct{} // has room for one
	// pending is set while the source runs and has not found anything yet.
	pending atomic.Bool
	// tried is closed when the source has answered, or has not in time.
	tried     chan struct{}
	triedOnce sync.Once

	mu sync.Mutex // guards what follows; hosts.mu and a pool's may be taken inside
	// sources are those of the loaded configurations, oldest first.
	sources []*finder
	stop    chan struct{} // ends the goroutine; nil if there is none
	ended   chan struct{} // closed when it has ended
	current *asking       // the call whose answer is awaited
	// found is the last good answer, and invalid what was left out of it.
	found   []*upstream.Endpoint
	invalid []string
	// trouble is why there is no newer answer; nil if there is one.
	trouble error
}

func newDiscovery(interval time.Duration) *discovery {
	return &discovery{
		interval: interval,
		wake:     make(chan struct{}, 1),
		tried:    make(chan struct{}),
	}
}

// start tells that the source's configuration is in force. From now on it is the
// one that is asked.
func (d *discovery) start(s *finder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.runs = true
	if d.stop != nil {
		return
	}
	d.stop, d.ended = make(chan struct{}), make(chan struct{})
	d.pending.Store(d.found == nil)
	go d.run(d.stop, d.ended)
}

// retire returns the call of the source that was under way, unless that is
// overdue anyway. If there is nobody else to ask, it ends the goroutine, which
// takes that no time.
func (d *discovery) retire(s *finder) *asking {
	d.mu.Lock()
	if !s.runs {
		d.mu.Unlock()
		return nil
	}
	s.runs = false
	var leaving *asking
	if a := d.current; a != nil && a.source == s {
		d.current = nil
		if a.ctx.Err() == nil {
			leaving = a
		}
		a.cancel()
	}
	var ended chan struct{}
	pending := false
	if d.askedLocked() == nil {
		close(d.stop)
		ended, pending = d.ended, d.pending.Swap(false)
		d.stop, d.ended = nil, nil
	}
	d.mu.Unlock()
	if ended == nil {
		select {
		case d.wake <- struct{}{}:
		default: // it has been woken already
		}
		return leaving
	}
	<-ended
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

// run asks now and then.
func (d *discovery) run(stop <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var a *asking
	late := false // and that was said
	for {
		var done, overdue <-chan struct{}
		if a != nil {
			done = a.done
			if !late {
				overdue = a.ctx.Done()
			}
		}
		select {
		case <-stop:
			return
		case <-timer.C:
			a, late = d.begin(), false
		case <-d.wake:
			// A call of a source that has gone is not waited for.
			if a != nil && !d.awaits(a) {
				a, late = d.begin(), false
			}
		case <-done:
			timer.Reset(d.settle(a))
			a = nil
		case <-overdue:
			late = true
			if !a.hasAnswer() && d.awaits(a) {
				d.fail(a.source, fmt.Errorf("no answer within %v", pollTimeout))
			}
		}
	}
}

// begin asks the source that is to be asked.
func (d *discovery) begin() *asking {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.askedLocked()
	if s == nil {
		return nil // the end is near
	}
	d.current = s.ask(requestForNobody(), pollTimeout)
	return d.current
}

func (d *discovery) awaits(a *asking) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current == a
}

// settle takes over an answer, and returns when to ask again.
func (d *discovery) settle(a *asking) time.Duration {
	d.mu.Lock()
	isAwaited := d.current == a
	if isAwaited {
		d.current = nil
	}
	d.mu.Unlock()
	switch {
	case a.err == nil:
		d.succeed(a)
	case isAwaited:
		d.fail(a.source, a.err)
	default:
		return 0 // it was told to come back
	}
	// A source that fails slowly may keep others waiting meanwhile.
	return d.interval + min(time.Since(a.began), pollTimeout)
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
func (d *discovery) succeed(a *asking) {
	d.mu.Lock()
	was := d.found
	d.found = a.found
	d.logLocked(a, was)
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
func (d *discovery) logLocked(a *asking, was []*upstream.Endpoint) {
	log := a.source.log
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

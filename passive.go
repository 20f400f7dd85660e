package websocketproxy

import (
	"slices"
	"time"
)

// failureLimits are those of passive checks, which are off if max is zero.
type failureLimits struct {
	duration time.Duration
	max      int
}

// failureKey is what failures are counted for: the same address may work with
// one transport and not with another.
type failureKey struct {
	address, transport string
	limits             failureLimits
}

// failures are the recent failures of an address that does not depend on requests.
// All is guarded by hosts.mu.
type failures struct {
	key failureKey
	// endpoints are those that count here. Each has a copy of ejected, so that a
	// choice need not look here.
	endpoints []*endpoint
	// recent are the times of those that count, oldest first, at most as many as
	// make a difference.
	recent []time.Time
	// ejected: there are so many that the upstream gets tunnels only if no other
	// one can.
	ejected bool
	timer   *time.Timer // set while something is remembered
}

// watch has e's failures counted, if its pool has passive checks.
func (p *pool) watch(e *endpoint) {
	if p.passive.max == 0 {
		return
	}
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	key := failureKey{address: e.host.address, transport: p.transport, limits: p.passive}
	f, ok := p.table.failures[key]
	if !ok {
		f = &failures{key: key}
		p.table.failures[key] = f
	}
	f.endpoints = append(f.endpoints, e)
	e.failures, e.failing = f, f.ejected
}

// ejectLocked has all endpoints know whether to be avoided.
func (f *failures) ejectLocked(is bool) {
	f.ejected = is
	for _, e := range f.endpoints {
		e.failing = is
	}
}

// unwatch takes that back. With the last endpoint, the failures are forgotten.
func (t *hostTable) unwatch(e *endpoint) {
	f := e.failures
	if f == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.endpoints = without(f.endpoints, e); len(f.endpoints) > 0 {
		return
	}
	if f.timer != nil {
		f.timer.Stop()
	}
	f.recent, f.ejected, f.timer = nil, false, nil // a handshake may still know it
	delete(t.failures, f.key)
}

// without removes an endpoint from a list, whose order does not matter.
func without(list []*endpoint, e *endpoint) []*endpoint {
	i, last := slices.Index(list, e), len(list)-1
	list[i], list[last] = list[last], nil
	return list[:last]
}

// failingLocked returns the addresses that some handler avoids.
func (t *hostTable) failingLocked() map[string]bool {
	failing := make(map[string]bool)
	for key, f := range t.failures {
		if f.ejected {
			failing[key.address] = true
		}
	}
	return failing
}

// countLocked is how many failures are remembered. The caller holds hosts.mu.
func (f *failures) countLocked() int {
	if f == nil {
		return 0
	}
	return len(f.recent)
}

// failed counts a failure, and reports whether it was one too many.
func (t *hostTable) failed(f *failures) (ejected bool) {
	if f == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(f.endpoints) == 0 {
		return false // the configuration of the handshake was unloaded meanwhile
	}
	if len(f.recent) == f.key.limits.max {
		f.recent = f.recent[1:]
	}
	f.recent = append(f.recent, time.Now())
	if f.timer == nil {
		f.timer = time.AfterFunc(f.key.limits.duration, func() { t.review(f) })
	}
	if f.ejected || len(f.recent) < f.key.limits.max {
		return false
	}
	f.ejectLocked(true)
	return true
}

// review forgets the failures whose time is over.
func (t *hostTable) review(f *failures) {
	if again := t.pass(f, time.Now()); len(again) > 0 {
		t.changed(change{kind: addressTried, address: f.key.address, endpoints: again})
	}
}

// pass is review without what follows from it: it returns the endpoints that get
// tunnels again.
func (t *hostTable) pass(f *failures, now time.Time) (recovered []*endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(f.recent) > 0 && now.Sub(f.recent[0]) >= f.key.limits.duration {
		f.recent = f.recent[1:]
	}
	if f.ejected && len(f.recent) < f.key.limits.max {
		recovered = slices.Clone(f.endpoints)
		f.ejectLocked(false)
	}
	if len(f.recent) == 0 {
		f.recent, f.timer = nil, nil
		return recovered
	}
	f.timer.Reset(f.recent[0].Add(f.key.limits.duration).Sub(now))
	return recovered
}

package upstream

import (
	"slices"
	"time"
)

// FailureLimits are those of passive checks, which are off if max is zero.
type FailureLimits struct {
	Duration time.Duration
	Max      int
}

// failureKey is what failures are counted for: the same address may work with
// one transport and not with another.
type failureKey struct {
	address, transport string
	limits             FailureLimits
}

// Failures are the recent failures of an address that does not depend on requests.
// All is guarded by the table's lock.
type Failures struct {
	key failureKey
	// endpoints are those that count here. Each has a copy of ejected, so that a
	// choice need not look here.
	endpoints []*Endpoint
	// recent are the times of those that count, oldest first, at most as many as
	// make a difference.
	recent []time.Time
	// ejected: there are so many that the upstream gets tunnels only if no other
	// one can.
	ejected bool
	timer   *time.Timer // set while something is remembered
	doubt   doubt
}

// watch has e's failures counted, if its pool has passive checks.
func (p *Pool) watch(e *Endpoint) {
	if p.Passive.Max == 0 {
		return
	}
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	key := failureKey{address: e.Host.Address, transport: p.Transport, limits: p.Passive}
	f, ok := p.table.failures[key]
	if !ok {
		f = &Failures{key: key}
		p.table.failures[key] = f
	}
	f.endpoints = append(f.endpoints, e)
	e.Failures, e.failing, e.doubtful = f, f.ejected, f.doubt.is
	e.showLocked()
}

// ejectLocked has all endpoints know whether to be avoided.
func (f *Failures) ejectLocked(is bool) {
	f.ejected = is
	for _, e := range f.endpoints {
		e.failing = is
		e.showLocked()
	}
}

// unwatch takes that back. With the last endpoint, the failures are forgotten.
func (t *Table) unwatch(e *Endpoint) {
	f := e.Failures
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
	f.recent, f.ejected, f.timer, f.doubt = nil, false, nil, doubt{} // a handshake may still know it
	delete(t.failures, f.key)
}

// without removes an endpoint from a list, whose order does not matter.
func without(list []*Endpoint, e *Endpoint) []*Endpoint {
	i, last := slices.Index(list, e), len(list)-1
	list[i], list[last] = list[last], nil
	return list[:last]
}

// avoidedLocked returns the addresses that some handler avoids, as connections fail, or by
// doubt.
func (t *Table) avoidedLocked() (failing, doubtful map[string]bool) {
	failing, doubtful = make(map[string]bool), make(map[string]bool)
	for key, f := range t.failures {
		failing[key.address] = failing[key.address] || f.ejected
		doubtful[key.address] = doubtful[key.address] || f.doubt.is
	}
	return failing, doubtful
}

// countLocked is how many failures are remembered. The caller holds the table's lock.
func (f *Failures) countLocked() int {
	if f == nil {
		return 0
	}
	return len(f.recent)
}

// Failed counts a failure, and reports whether it was one too many.
func (t *Table) Failed(f *Failures) (ejected bool) {
	if f == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(f.endpoints) == 0 {
		return false // the configuration of the handshake was unloaded meanwhile
	}
	if len(f.recent) == f.key.limits.Max {
		f.recent = f.recent[1:]
	}
	f.recent = append(f.recent, time.Now())
	if f.timer == nil {
		f.timer = time.AfterFunc(f.key.limits.Duration, func() { t.review(f) })
	}
	if f.ejected || len(f.recent) < f.key.limits.Max {
		return false
	}
	f.ejectLocked(true)
	t.serveLocked() // who belongs there may go elsewhere
	return true
}

// review forgets the failures whose time is over.
func (t *Table) review(f *Failures) {
	if again := t.pass(f, time.Now()); len(again) > 0 {
		t.Changed(Change{Kind: AddressTried, Address: f.key.address, Endpoints: again})
	}
}

// pass is review without what follows from it: it returns the endpoints that get
// tunnels again.
func (t *Table) pass(f *Failures, now time.Time) (recovered []*Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(f.recent) > 0 && now.Sub(f.recent[0]) >= f.key.limits.Duration {
		f.recent = f.recent[1:]
	}
	if f.ejected && len(f.recent) < f.key.limits.Max {
		recovered = slices.Clone(f.endpoints)
		f.ejectLocked(false)
	}
	if len(f.recent) == 0 {
		f.recent, f.timer = nil, nil
		return recovered
	}
	f.timer.Reset(f.recent[0].Add(f.key.limits.Duration).Sub(now))
	return recovered
}

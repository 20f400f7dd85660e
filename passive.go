package websocketproxy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// maxFailing bounds the addresses whose failures are remembered: placeholders
// can make any number of them.
const maxFailing = 10_000

// mostMaxFails bounds what is remembered of one address.
const mostMaxFails = 1000

// earlyEnd is how soon a tunnel has to die for its upstream to have failed: it
// has accepted the handshake and cannot serve it.
const earlyEnd = time.Second

// failureLimits are those of passive checks, which are off if max is zero.
type failureLimits struct {
	duration time.Duration
	max      int
}

func newFailureLimits(cfg *PassiveHealthChecks) (failureLimits, error) {
	if cfg == nil {
		cfg = new(PassiveHealthChecks)
	}
	limits := failureLimits{duration: orDefault(cfg.FailDuration, defaultFailDuration), max: cfg.MaxFails}
	switch {
	case limits.duration == 0 && cfg.MaxFails != 0:
		return limits, errors.New("health_checks.passive.max_fails: has no effect as fail_duration is off; set that too")
	case limits.duration == 0, limits.max < 0:
		return failureLimits{}, nil
	case limits.max == 0:
		limits.max = defaultMaxFails
	case limits.max > mostMaxFails:
		return limits, fmt.Errorf("health_checks.passive.max_fails: %d is more than %d", limits.max, mostMaxFails)
	}
	return limits, nil
}

// failureKey is what failures are counted for: the same address may work with
// one transport and not with another.
type failureKey struct {
	address, transport string
	limits             failureLimits
}

// failures are the recent failures of an address. All is guarded by hosts.mu.
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
	hosts.mu.Lock()
	defer hosts.mu.Unlock()
	key := failureKey{address: e.host.address, transport: p.transport, limits: p.passive}
	f, ok := hosts.failures[key]
	if !ok {
		f = &failures{key: key}
		hosts.failures[key] = f
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

// unwatch takes that back. What has happened lately is remembered: an address
// that was made of placeholders may come again.
func (t *hostTable) unwatch(e *endpoint) {
	f := e.failures
	if f == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.endpoints = without(f.endpoints, e)
	t.forgetLocked(f)
}

// without removes an endpoint from a list, whose order does not matter.
func without(list []*endpoint, e *endpoint) []*endpoint {
	i, last := slices.Index(list, e), len(list)-1
	list[i], list[last] = list[last], nil
	return list[:last]
}

// forgetLocked drops failures that nobody needs.
func (t *hostTable) forgetLocked(f *failures) {
	if len(f.endpoints) > 0 || len(f.recent) > 0 && len(t.failures) <= maxFailing {
		return
	}
	if f.timer != nil {
		f.timer.Stop()
	}
	f.recent, f.ejected, f.timer = nil, false, nil // a tunnel may still know it
	if t.failures[f.key] == f {
		delete(t.failures, f.key)
	}
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
	// A tunnel may know one that was dropped meanwhile, and made anew.
	if current, ok := t.failures[f.key]; ok {
		f = current
	} else {
		t.failures[f.key] = f
	}
	if len(f.recent) == f.key.limits.max {
		f.recent = f.recent[1:]
	}
	f.recent = append(f.recent, time.Now())
	if f.timer == nil {
		f.timer = time.AfterFunc(f.key.limits.duration, func() { t.review(f) })
	}
	defer t.forgetLocked(f)
	if f.ejected || len(f.recent) < f.key.limits.max {
		return false
	}
	f.ejectLocked(true)
	return true
}

// review forgets the failures whose time is over.
func (t *hostTable) review(f *failures) {
	if t.pass(f, time.Now()) {
		reporters.newest().Info("upstream is tried again", zap.String("upstream", f.key.address))
		recovered(f.key.address)
	}
}

// pass is review without what follows from it: it reports whether the upstream
// gets tunnels again.
func (t *hostTable) pass(f *failures, now time.Time) (recovered bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(f.recent) > 0 && now.Sub(f.recent[0]) >= f.key.limits.duration {
		f.recent = f.recent[1:]
	}
	if f.ejected && len(f.recent) < f.key.limits.max {
		// If it is configured, but with other limits, nobody has avoided it.
		h := t.m[f.key.address]
		recovered = len(f.endpoints) > 0 || h == nil || h.named == 0
		f.ejectLocked(false)
	}
	if len(f.recent) == 0 {
		f.recent, f.timer = nil, nil
		t.forgetLocked(f)
		return recovered
	}
	f.timer.Reset(f.recent[0].Add(f.key.limits.duration).Sub(now))
	return recovered
}

// noteFailure has passive checks see a handshake that has failed, and that the
// upstream was given some time for. It is not to blame for being late if most of
// the time had been spent before, waiting in the queue or on other upstreams.
func (h *Handler) noteFailure(c *choice, refused *refusal, took time.Duration) {
	switch refused.cause {
	case causeDialFailed, causeDialTimeout, causeClosed, causeBadAnswer:
	case causeHandshakeTimeout:
		if took < h.handshake/2 {
			return
		}
	default:
		return
	}
	if hosts.failed(c.endpoint.failures) {
		logEjected(h.logger, c.host.address, refused.err)
	}
}

// diedEarly reports whether the upstream has dropped a tunnel that it had just
// accepted. A Close frame or the end of the stream never counts: applications
// refuse clients that way.
func (t *tunnel) diedEarly() bool {
	switch t.why {
	case upstreamReset, upstreamLost:
		return t.early
	}
	return false
}

// noteEarlyEnd has passive checks see a tunnel that has died.
func (t *tunnel) noteEarlyEnd() {
	if t.failures != nil && t.diedEarly() && hosts.failed(t.failures) {
		logEjected(reporters.newest(), t.upstreamHost.address, errors.New("tunnels are reset as soon as they are open"))
	}
}

func logEjected(log *zap.Logger, address string, err error) {
	if c := log.Check(zapcore.WarnLevel, "upstream fails; it gets tunnels only if no other one can"); c != nil {
		c.Write(zap.String("upstream", address), zap.Error(err))
	}
}

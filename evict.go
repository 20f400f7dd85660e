package websocketproxy

import (
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// leasePolicy is what a handler's configuration says about tunnels that have to
// move elsewhere. It is shared by all of its leases and never changes.
type leasePolicy struct {
	// evict is the time over which the tunnels of an upstream are ended that is
	// not configured any more; zero means that they stay.
	evict time.Duration
	// closeCode and closeText are for the Close frames to their clients.
	closeCode uint16
	closeText string
	// mustPass is the check that the upstream has to pass for its tunnels to
	// stay; empty means that they stay anyway.
	mustPass string
	// lineage finds the pool that the client would come to today.
	lineage *lineage
	// report is told the end of each tunnel.
	report func(tunnel.Outcome)
}

// lease is what is held for a tunnel as long as it lives: a place at its upstream,
// and one of its client. It is the owner of the tunnel.
type lease struct {
	host *upstream.Host
	// from is where the upstream's address comes from, if it depends on the
	// request.
	from   *upstream.Provenance
	place  *clientPlace // nil if these are not counted
	policy *leasePolicy
}

// Ended implements tunnel.Owner: it gives all back.
func (l *lease) Ended(o tunnel.Outcome) {
	hosts.TunnelEnded(l.host)
	l.place.leave()
	l.policy.report(o)
}

// MustGo implements tunnel.Owner.
func (l *lease) MustGo() (tunnel.Ending, bool) {
	switch {
	case l.isOrphan():
		return l.evicted(l.removedBy()), true
	case l.isEvicted():
		return l.evicted(l.operator()), true
	case l.isUnhealthy():
		return l.moved(tunnel.Unhealthy), true
	}
	return tunnel.Ending{}, false
}

// moved is an end after which the client opens another tunnel elsewhere.
func (l *lease) moved(why tunnel.Reason) tunnel.Ending {
	return tunnel.Ending{Reason: why, Code: l.policy.closeCode, Text: l.policy.closeText}
}

// evicted is moved because somebody wants the upstream emptied.
func (l *lease) evicted(by string) tunnel.Ending {
	e := l.moved(tunnel.Evicted)
	e.By = by
	return e
}

// isOrphan reports whether no loaded configuration has the upstream any more. As long
// as a source of the pool that the client would come to is still to give its first
// answer, which may have it, nobody can say so.
func (l *lease) isOrphan() bool {
	return l.policy.evict > 0 && !hosts.IsNamed(l.host, l.from) && !loadedPools.mayFind(l.policy.lineage)
}

// isEvicted reports whether an operator wants the upstream emptied.
func (l *lease) isEvicted() bool {
	return hosts.StateOf(l.host.Address).State == upstream.Evict
}

// isUnhealthy reports whether the upstream is down, and the tunnel is to end because
// of that. What the upstream's address was expanded from is not checked, so nothing
// is known about it.
func (l *lease) isUnhealthy() bool {
	return l.policy.mustPass != "" && l.from == nil && hosts.IsDown(l.host, l.policy.mustPass)
}

// Who has tunnels evicted, if it is no operator.
const (
	evictedByReload = "reload"
	evictedBySource = "source"
)

// removedBy says by what no loaded configuration has the upstream any more.
func (l *lease) removedBy() string {
	if l.from == nil && hosts.WasDropped(l.host) {
		return evictedBySource
	}
	return evictedByReload
}

// operator is who wants the upstream emptied.
func (l *lease) operator() string {
	if by := hosts.StateOf(l.host.Address).By; by != "" {
		return by
	}
	return "operator" // of a document that somebody else has written
}

// leaseOf returns the lease that a tunnel has.
func leaseOf(t *tunnel.Tunnel) *lease {
	l, _ := t.Owner.(*lease) // every tunnel of the process has one
	return l
}

// evictor ends tunnels that should be at another upstream.
type evictor struct {
	live *tunnel.Registry
}

var evictions = evictor{liveTunnels}

// orphans begins to end the tunnels whose upstream no loaded configuration
// has any more, each within the time that its own configuration gave. Those
// whose upstream comes back before it is their turn stay.
func (v *evictor) orphans() {
	v.all(func(*tunnel.Tunnel) bool { return true }, func(l *lease) (tunnel.Ending, bool) {
		if !l.isOrphan() {
			return tunnel.Ending{}, false
		}
		return l.evicted(l.removedBy()), true
	})
}

// unhealthy begins to end the tunnels of an upstream that is down, those
// that are to end because of that. It goes on as long as that is so.
func (v *evictor) unhealthy(address string) {
	v.all(isAt(address), func(l *lease) (tunnel.Ending, bool) { return l.moved(tunnel.Unhealthy), l.isUnhealthy() })
}

// from begins to end the tunnels of an upstream that an operator wants
// emptied, and goes on as long as that is so. Without a period, the time is that
// of their own configuration.
func (v *evictor) from(address string, period time.Duration) {
	// Whoever sets the state again may want another pace.
	since := hosts.StateOf(address).At
	due := func(l *lease) (tunnel.Ending, bool) {
		s := hosts.StateOf(address)
		return l.evicted(l.operator()), s.State == upstream.Evict && s.At.Equal(since)
	}
	if period <= 0 {
		v.all(isAt(address), due)
		return
	}
	v.live.EndOneByOne(v.live.Collect(isAt(address)), period, func(t *tunnel.Tunnel) (tunnel.Ending, bool) { return due(leaseOf(t)) })
}

func isAt(address string) func(*tunnel.Tunnel) bool {
	return func(t *tunnel.Tunnel) bool { return t.Upstream == address }
}

// all begins to end the tunnels among some for which that is due, each within
// the time that its own configuration gave, as long as that is so.
func (v *evictor) all(among func(*tunnel.Tunnel) bool, due func(*lease) (tunnel.Ending, bool)) {
	byPeriod := make(map[time.Duration][]*tunnel.Tunnel)
	for _, t := range v.live.Collect(among) {
		l := leaseOf(t)
		if _, is := due(l); !is {
			continue
		}
		period := l.policy.evict
		if period == 0 { // which is about upstreams that are gone
			period = defaultEvictPeriod
		}
		byPeriod[period] = append(byPeriod[period], t)
	}
	for period, tunnels := range byPeriod {
		v.live.EndOneByOne(tunnels, period, func(t *tunnel.Tunnel) (tunnel.Ending, bool) { return due(leaseOf(t)) })
	}
}

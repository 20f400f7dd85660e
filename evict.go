package websocketproxy

import (
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// isOrphan reports whether no loaded configuration has the tunnel's upstream
// any more. As long as a source of the pool that the client would come to is still to
// give its first answer, which may have it, nobody can say so.
func (t *tunnel) isOrphan() bool {
	return t.policy.evict > 0 && !hosts.isNamed(t.upstreamHost, t.from) && !loadedPools.mayFind(t.policy.lineage)
}

// isEvicted reports whether an operator wants the tunnel's upstream emptied.
func (t *tunnel) isEvicted() bool {
	return hosts.stateOf(t.upstreamHost.address).State == upstream.Evict
}

// Who has tunnels evicted, if it is no operator.
const (
	evictedByReload = "reload"
	evictedBySource = "source"
)

// evict ends the tunnel so that its client opens another one elsewhere. by is who
// wants that.
func (t *tunnel) evict(by string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isOpen() {
		t.evictedBy = by
	}
	t.endSayingLocked(evicted, t.policy.closeCode, t.policy.closeText)
}

// evictOrphan is evict for a tunnel whose upstream no loaded configuration has.
func (t *tunnel) evictOrphan() {
	t.evict(hosts.removedBy(t.upstreamHost, t.from))
}

// evictAsSaid is evict for a tunnel whose upstream an operator wants emptied.
func (t *tunnel) evictAsSaid() {
	by := hosts.stateOf(t.upstreamHost.address).By
	if by == "" {
		by = "operator" // of a document that somebody else has written
	}
	t.evict(by)
}

// removedBy says by what no loaded configuration has the address of h any more.
func (t *hostTable) removedBy(h *host, o *provenance) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o == nil && h.dropped {
		return evictedBySource
	}
	return evictedByReload
}

// isUnhealthy reports whether the tunnel's upstream is down, and the tunnel is to
// end because of that. What the upstream's address was expanded from is not
// checked, so nothing is known about it.
func (t *tunnel) isUnhealthy() bool {
	return t.policy.mustPass != "" && t.from == nil && hosts.isDown(t.upstreamHost, t.policy.mustPass)
}

// leaveUnhealthy ends the tunnel so that its client opens another one elsewhere.
func (t *tunnel) leaveUnhealthy() {
	t.endSaying(unhealthy, t.policy.closeCode, t.policy.closeText)
}

// evictOrphans begins to end the tunnels whose upstream no loaded configuration
// has any more, each within the time that its own configuration gave. Those
// whose upstream comes back before it is their turn stay.
func (r *registry) evictOrphans() {
	r.evictAll(r.collect((*tunnel).isOrphan), (*tunnel).isOrphan, (*tunnel).evictOrphan)
}

// evictUnhealthy begins to end the tunnels of an upstream that is down, those
// that are to end because of that. It goes on as long as that is so.
func (r *registry) evictUnhealthy(address string) {
	r.evictAll(r.collect(func(t *tunnel) bool {
		return t.upstreamHost.address == address && t.isUnhealthy()
	}), (*tunnel).isUnhealthy, (*tunnel).leaveUnhealthy)
}

// evictFrom begins to end the tunnels of an upstream that an operator wants
// emptied, and goes on as long as that is so. Without a period, the time is that
// of their own configuration.
func (r *registry) evictFrom(address string, period time.Duration) {
	tunnels := r.collect(func(t *tunnel) bool { return t.upstreamHost.address == address })
	// Whoever sets the state again may want another pace.
	since := hosts.stateOf(address).At
	wanted := func(*tunnel) bool {
		s := hosts.stateOf(address)
		return s.State == upstream.Evict && s.At.Equal(since)
	}
	if period <= 0 {
		r.evictAll(tunnels, wanted, (*tunnel).evictAsSaid)
		return
	}
	r.pace(paced{tunnels: tunnels, period: period, wanted: wanted, end: (*tunnel).evictAsSaid})
}

// evictAll begins to end tunnels, each within the time that its own
// configuration gave, as long as they are wanted to end.
func (r *registry) evictAll(tunnels []*tunnel, wanted func(*tunnel) bool, end func(*tunnel)) {
	byPeriod := make(map[time.Duration][]*tunnel)
	for _, t := range tunnels {
		period := t.policy.evict
		if period == 0 { // which is about upstreams that are gone
			period = defaultEvictPeriod
		}
		byPeriod[period] = append(byPeriod[period], t)
	}
	for period, tunnels := range byPeriod {
		r.pace(paced{tunnels: tunnels, period: period, wanted: wanted, end: end})
	}
}

// pace begins to end tunnels one after another, those first in which nothing
// has happened for the longest time. It goes on until the process exits, which
// has its own pace.
func (r *registry) pace(p paced) {
	if len(p.tunnels) == 0 {
		return
	}
	idleFirst(p.tunnels)
	go p.run(r.exit.prepared().begun.Done())
}

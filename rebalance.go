package websocketproxy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// maxRebalanceSteps bounds what one event sets off. It also is what a share of
// a twentieth needs.
const maxRebalanceSteps = 20

// check reports what is wrong with the settings.
func (r *Rebalance) check() error {
	switch {
	case r == nil:
	case !(r.Share <= 1): // NaN too
		return fmt.Errorf("load_balancing.rebalance.share: %v is more than 1", r.Share)
	case r.Interval < 0:
		return errors.New("load_balancing.rebalance.interval: must not be negative")
	case r.Share <= 0 && r.Interval != 0:
		return errors.New("load_balancing.rebalance.interval: has no effect without share; set that too")
	case r.Interval != 0 && r.Interval < caddy.Duration(time.Second):
		return errors.New("load_balancing.rebalance.interval: is shorter than a second")
	}
	return nil
}

// provisionRebalance makes the pool known as one that is being loaded, with or
// without rebalancing: its tunnels may meet one with it later. Nothing is closed
// before the configuration is in force.
func (h *Handler) provisionRebalance(ctx caddy.Context) error {
	var r Rebalance
	if h.LoadBalancing != nil && h.LoadBalancing.Rebalance != nil {
		r = *h.LoadBalancing.Rebalance
	}
	p := &loadedPool{
		lineage: &lineage{name: h.Name, rebalances: r.Share > 0},
		config:  ctx.Done(),
		pool:    h.pool,
		handler: h,
		pending: h.sources.ArePending,
		shown:   make(map[string]string),
	}
	for _, e := range h.pool.Fixed {
		p.shown[e.Host.Address] = e.Host.Address
	}
	for _, t := range h.pool.Templates {
		p.shown[t.Dial] = t.Dial
	}
	for _, s := range h.sources {
		p.shown[s.Key] = "dynamic " + s.Name // the rest may be secret
	}
	p.upstreams = slices.Sorted(maps.Keys(p.shown))
	if p.rebalances {
		p.rebalance = &rebalancer{
			loaded:    p,
			share:     r.Share,
			interval:  orDefault(r.Interval, defaultRebalanceInterval),
			slowStart: h.pool.SlowStart,
			live:      liveTunnels,
			stop:      make(chan struct{}),
			logger:    h.logger,
		}
	}
	h.leasePolicy.lineage = p.lineage
	h.loaded = p
	loadedPools.add(p)
	return nil
}

// startJoined has the upstreams that the handler's configuration brings start
// slowly. Pools of the configuration before it have to be loaded still. Tunnels are
// moved to them when the first of those goes: before, loading may still fail.
func (h *Handler) startJoined() {
	loadedPools.join(h.loaded)
}

// becameReady has others moved to upstreams that get new tunnels again, as an
// operator has made them ready. They have begun to start slowly.
func becameReady(addresses []string) {
	beginRebalancing(func(e *upstream.Endpoint) bool { return slices.Contains(addresses, e.Host.Address) },
		func(*rebalancer) time.Time { return time.Time{} })
}

// discovered has upstreams started slowly that have just been found, and others
// moved to them. Some of them others may have had before.
func discovered(found []*upstream.Endpoint, had []string) {
	hosts.JoinNew(found, had)
	beginRebalancing(func(e *upstream.Endpoint) bool { return slices.Contains(found, e) },
		func(*rebalancer) time.Time { return time.Time{} })
}

// recovered is the same for upstreams that work again. Nothing is moved to
// them until they have done so for an interval: one that comes and goes must not
// have tunnels closed at the others each time.
func recovered(endpoints []*upstream.Endpoint) {
	hosts.JoinPools(endpoints)
	beginRebalancing(func(e *upstream.Endpoint) bool { return slices.Contains(endpoints, e) },
		func(b *rebalancer) time.Time { return time.Now().Add(b.interval) })
}

// beginRebalancing has the loaded pools rebalanced in which there is an endpoint
// that is concerned, from a time on that depends on them.
func beginRebalancing(concerned func(*upstream.Endpoint) bool, next func(*rebalancer) time.Time) {
	loadedPools.mu.Lock()
	defer loadedPools.mu.Unlock()
	for _, p := range loadedPools.all {
		if p.runs && p.rebalance != nil && slices.ContainsFunc(p.pool.Standing(), concerned) {
			p.rebalance.beginLocked(next(p.rebalance))
		}
	}
}

package websocketproxy

import (
	"context"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/cluster"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// operated is the process as the admin API sees it.
type operated struct{}

func (operated) Tunnels(f *admin.Filter) []admin.LiveTunnel {
	found := liveTunnels.Collect(func(t *tunnel.Tunnel) bool { return f.Matches(t.Upstream, t.Handler, t.ClientIP) })
	all := make([]admin.LiveTunnel, len(found))
	for i, t := range found {
		all[i] = operatedTunnel{t}
	}
	return all
}

func (operated) Tunnel(id string) (admin.LiveTunnel, bool) {
	t := liveTunnels.Find(id)
	return operatedTunnel{t}, t != nil
}

func (operated) Close(all []admin.LiveTunnel, period time.Duration, code uint16, reason string) {
	tunnels := make([]*tunnel.Tunnel, len(all))
	for i, t := range all {
		tunnels[i] = t.(operatedTunnel).t
	}
	how := killed(code, reason)
	liveTunnels.EndOneByOne(tunnels, period, func(*tunnel.Tunnel) (tunnel.Ending, bool) { return how, true })
}

func killed(code uint16, text string) tunnel.Ending {
	return tunnel.Ending{Reason: tunnel.Killed, Code: code, Text: text}
}

func (operated) Upstreams() []admin.Upstream {
	known := hosts.List()
	list := make([]admin.Upstream, len(known))
	for i, u := range known {
		list[i] = admin.Upstream(u)
	}
	markRemoved(list)
	return list
}

func (operated) Upstream(address string) (admin.Upstream, bool) {
	info, known := hosts.Info(address)
	list := []admin.Upstream{admin.Upstream(info)}
	markRemoved(list)
	return list[0], known
}

func (operated) SetState(ctx context.Context, address string, s upstream.State) (local bool, problem error) {
	return cluster.IsLocal(address), operators.Set(ctx, address, s)
}

// operatedTunnel is a live tunnel as the admin API sees it.
type operatedTunnel struct{ t *tunnel.Tunnel }

func (o operatedTunnel) ID() string { return o.t.ID }

func (o operatedTunnel) Close(code uint16, reason string) { o.t.End(killed(code, reason)) }

func (o operatedTunnel) Info(now time.Time) admin.Tunnel {
	s := o.t.Snapshot()
	return admin.Tunnel{
		ID:          s.ID,
		ClientIP:    s.ClientIP,
		Upstream:    s.Upstream,
		Handler:     s.Handler,
		Opened:      s.Opened,
		Age:         max(0, now.Sub(s.Opened).Seconds()),
		Idle:        max(0, now.Sub(s.Active).Seconds()),
		BytesIn:     s.BytesIn,
		BytesOut:    s.BytesOut,
		MessagesIn:  s.MessagesIn,
		MessagesOut: s.MessagesOut,
	}
}

// markRemoved gives those the state removed that have nothing but tunnels which
// would not be opened today.
func markRemoved(list []admin.Upstream) {
	// All tunnels are looked at only if there is something to find.
	doubtful := make(map[string]*admin.Upstream)
	for i := range list {
		if u := &list[i]; u.State == upstream.Ready && !u.Configured && u.Tunnels > 0 {
			doubtful[u.Address] = u
		}
	}
	if len(doubtful) == 0 {
		return
	}
	tunnels := liveTunnels.Collect(func(t *tunnel.Tunnel) bool { return doubtful[t.Upstream] != nil })
	for _, t := range tunnels {
		doubtful[t.Upstream].State = upstream.Removed
	}
	for _, t := range tunnels {
		if evict.LeaseOf(t).IsNamed() {
			doubtful[t.Upstream].State = upstream.Ready
		}
	}
}

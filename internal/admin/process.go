package admin

import (
	"context"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/cluster"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Process is the [Backend] of a process.
type Process struct {
	Live   *tunnel.Registry // whose owners are leases of evict
	Table  *upstream.Table
	States *cluster.States
}

// Tunnels implements [Backend].
func (p *Process) Tunnels(f *Filter) []LiveTunnel {
	matches := func(t *tunnel.Tunnel) bool { return f.Matches(&t.About) }
	var found []*tunnel.Tunnel
	if all := f.labels(); len(all) > 0 {
		found = slices.DeleteFunc(p.Live.Labelled(all...), func(t *tunnel.Tunnel) bool { return !matches(t) })
	} else {
		found = p.Live.Collect(matches)
	}
	all := make([]LiveTunnel, len(found))
	for i, t := range found {
		all[i] = liveTunnel{t}
	}
	return all
}

// labels are those that tunnels have to have: these are found without looking at all.
func (f *Filter) labels() (all []tunnel.Label) {
	for name, value := range f.Labels {
		l, _ := tunnel.LabelOf(name, value) // whole, as the filter has been parsed
		all = append(all, l)
	}
	return all
}

// Tunnel implements [Backend].
func (p *Process) Tunnel(id string) (LiveTunnel, bool) {
	t := p.Live.Find(id)
	return liveTunnel{t}, t != nil
}

// Close implements [Backend].
func (p *Process) Close(all []LiveTunnel, period time.Duration, code uint16, reason string) {
	tunnels := make([]*tunnel.Tunnel, len(all))
	for i, t := range all {
		tunnels[i] = t.(liveTunnel).t
	}
	how := killed(code, reason)
	p.Live.EndOneByOne(tunnels, period, func(*tunnel.Tunnel) (tunnel.Ending, bool) { return how, true })
}

func killed(code uint16, text string) tunnel.Ending {
	return tunnel.Ending{Reason: tunnel.Killed, Code: code, Text: text}
}

// Upstreams implements [Backend].
func (p *Process) Upstreams() []Upstream {
	known := p.Table.List()
	list := make([]Upstream, len(known))
	for i, u := range known {
		list[i] = Upstream(u)
	}
	p.markRemoved(list)
	return list
}

// Upstream implements [Backend].
func (p *Process) Upstream(address string) (Upstream, bool) {
	info, known := p.Table.Info(address)
	list := []Upstream{Upstream(info)}
	p.markRemoved(list)
	return list[0], known
}

// SetState implements [Backend].
func (p *Process) SetState(ctx context.Context, address string, s upstream.State) (local bool, problem error) {
	return cluster.IsLocal(address), p.States.Set(ctx, address, s)
}

// liveTunnel is a live tunnel as the admin API sees it.
type liveTunnel struct{ t *tunnel.Tunnel }

func (o liveTunnel) ID() string { return o.t.ID }

func (o liveTunnel) Close(code uint16, reason string) { o.t.End(killed(code, reason)) }

// Renew has no limit beside max_lifetime.
func (o liveTunnel) Renew(left time.Duration) bool { return o.t.RenewFor(left, 0) }

func (o liveTunnel) Info(now time.Time) Tunnel {
	s := o.t.Snapshot()
	info := Tunnel{
		ID:          s.ID,
		ClientIP:    s.ClientIP,
		Protocol:    s.Asked.Target().Protocol,
		Upstream:    s.Upstream,
		Handler:     s.Handler,
		Opened:      s.Opened,
		Age:         max(0, now.Sub(s.Opened).Seconds()),
		Idle:        max(0, now.Sub(s.Active).Seconds()),
		BytesIn:     s.BytesIn,
		BytesOut:    s.BytesOut,
		MessagesIn:  s.MessagesIn,
		MessagesOut: s.MessagesOut,

		BytesRate:    s.BytesRate,
		MessagesRate: s.MessagesRate,
		Expires:      s.Expires,
	}
	for l := range s.Labels.All() {
		if info.Labels == nil {
			info.Labels = make(map[string]string)
		}
		info.Labels[l.Name] = l.Value
	}
	return info
}

// markRemoved gives those the state removed that have nothing but tunnels which
// would not be opened today.
func (p *Process) markRemoved(list []Upstream) {
	// All tunnels are looked at only if there is something to find.
	doubtful := make(map[string]*Upstream)
	for i := range list {
		if u := &list[i]; u.State == upstream.Ready && !u.Configured && u.Tunnels > 0 {
			doubtful[u.Address] = u
		}
	}
	if len(doubtful) == 0 {
		return
	}
	tunnels := p.Live.Collect(func(t *tunnel.Tunnel) bool { return doubtful[t.Upstream] != nil })
	for _, t := range tunnels {
		doubtful[t.Upstream].State = upstream.Removed
	}
	for _, t := range tunnels {
		if evict.LeaseOf(t).IsNamed() {
			doubtful[t.Upstream].State = upstream.Ready
		}
	}
}

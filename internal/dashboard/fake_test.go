package dashboard

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// fake is a backend whose contents a test sets.
type fake struct {
	counts

	mu        sync.Mutex
	upstreams []admin.Upstream
	pools     []Pool
	tunnels   []*fakeTunnel
	set       []upstream.State
	looks     int // at all tunnels
	files     descriptors
}

type fakeTunnel struct {
	admin.Tunnel

	about  *tunnel.About
	closed bool
}

func (t *fakeTunnel) ID() string               { return t.Tunnel.ID }
func (t *fakeTunnel) Renew(time.Duration) bool { return false }

func (t *fakeTunnel) Info(time.Time) admin.Tunnel {
	info := t.Tunnel
	info.Labels = maps.Clone(t.Labels)
	return info
}

func (t *fakeTunnel) Close(uint16, string) { t.closed = true }

func (f *fake) Tunnels(filter *admin.Filter) (all []admin.LiveTunnel) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	for _, t := range f.tunnels {
		if filter.Matches(&tunnel.About{Upstream: t.Upstream, Handler: t.Handler, ClientIP: t.ClientIP}) {
			all = append(all, t)
		}
	}
	return all
}

func (f *fake) Snapshots(wanted func(*tunnel.About) bool) iter.Seq[tunnel.Snapshot] {
	return func(yield func(tunnel.Snapshot) bool) {
		f.looks++
		for _, t := range f.tunnels {
			if wanted(t.known()) && !yield(t.snapshot()) {
				return
			}
		}
	}
}

// known is what it is known by, once and for all.
func (t *fakeTunnel) known() *tunnel.About {
	if t.about == nil {
		t.about = &tunnel.About{
			ID: t.Tunnel.ID, ClientIP: t.ClientIP, Upstream: t.Upstream, Handler: t.Handler,
			Labels: tunnel.NewLabels(maps.All(t.Labels)),
		}
	}
	return t.about
}

func (t *fakeTunnel) snapshot() tunnel.Snapshot {
	return tunnel.Snapshot{
		About: *t.known(), Opened: t.Opened, Active: noon.Add(-time.Duration(t.Idle) * time.Second),
		Traffic: tunnel.Traffic{BytesIn: t.BytesIn, BytesOut: t.BytesOut}, BytesRate: t.BytesRate,
	}
}

func (f *fake) Tunnel(id string) (admin.LiveTunnel, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tunnels {
		if t.ID() == id {
			return t, true
		}
	}
	return nil, false
}

func (f *fake) Close(all []admin.LiveTunnel, _ time.Duration, code uint16, reason string) {
	for _, t := range all {
		t.Close(code, reason)
	}
}

func (f *fake) Upstreams() []admin.Upstream {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.upstreams)
}

func (f *fake) Upstream(address string) (admin.Upstream, bool) {
	for _, u := range f.Upstreams() {
		if u.Address == address {
			return u, true
		}
	}
	return admin.Upstream{}, false
}

func (f *fake) SetState(_ context.Context, address string, s upstream.State) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set = append(f.set, s)
	for i := range f.upstreams {
		if u := &f.upstreams[i]; u.Address == address {
			u.State, u.By, u.Since = s.State, s.By, s.At
		}
	}
	return false, nil
}

func (f *fake) Pools() []Pool { return f.pools }

// one is a backend with one handler that has two upstreams, and with so many tunnels at
// the first one.
func one(tunnels int) *fake {
	f := &fake{
		upstreams: []admin.Upstream{
			{Address: "10.0.0.1:80", State: upstream.Ready, Health: upstream.Up, Configured: true, Tunnels: tunnels},
			{Address: "10.0.0.2:80", State: upstream.Ready, Health: upstream.Up, Configured: true},
		},
		pools: []Pool{{Handler: "chat", Members: []Member{{"10.0.0.1:80", 1, 0}, {"10.0.0.2:80", 2, 10}}}},
	}
	for i := range tunnels {
		f.open(admin.Tunnel{ID: "T" + strings.Repeat("x", i), ClientIP: "192.0.2.1", Upstream: "10.0.0.1:80", Handler: "chat", Age: float64(i)})
	}
	return f
}

// open adds a tunnel, as it is at noon.
func (f *fake) open(t admin.Tunnel) {
	t.Opened = noon.Add(-time.Duration(t.Age) * time.Second)
	f.tunnels = append(f.tunnels, &fakeTunnel{Tunnel: t})
}

// inUse is a board that keeps what happens, without its sampler.
func inUse(tb testing.TB, f *fake) *Board {
	tb.Helper()
	b := New(f)
	b.files = func() descriptors { return f.files }
	b.history = newHistory()
	b.begin()
	tb.Cleanup(b.end)
	return b
}

// at takes a sample as of some time.
func (b *Board) at(now time.Time) { b.history.add(b.gather(now)) }

// ended has tunnels opened and ended.
func (b *Board) ended(reason tunnel.Reason, times int) {
	for range times {
		b.backend.(*fake).opened()
		b.left(reason)
	}
}

// left has one of those that are open ended.
func (b *Board) left(reason tunnel.Reason) {
	b.backend.(*fake).counts.ended(string(reason))
	b.TunnelEnded(&tunnel.Outcome{About: tunnel.About{Handler: "chat", Upstream: "10.0.0.1:80"}, Reason: reason})
}

func (b *Board) refused(cause string, times int) {
	for range times {
		b.backend.(*fake).counts.refused(cause)
		b.HandshakeRefused(Event{Why: cause, Handler: "chat", Upstream: "10.0.0.2:80"})
	}
}

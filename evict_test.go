package websocketproxy

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// orphans are the tunnels that have lost their upstream.
func orphans(live *tunnel.Registry) []*tunnel.Tunnel {
	return live.Collect(func(t *tunnel.Tunnel) bool { return evict.LeaseOf(t).IsOrphan() })
}

// openAt opens tunnels through p, one for each upstream.
func openAt(t *testing.T, p *testProxy, ups ...*testbed.Upstream) []*testbed.Client {
	t.Helper()
	clients := make([]*testbed.Client, len(ups))
	for range ups {
		c := testbed.Dial(t, p.Addr)
		upstream := c.Handshake("/").Header.Get("X-Upstream")
		i := slices.IndexFunc(ups, func(u *testbed.Upstream) bool { return u.Addr == upstream })
		if i < 0 || clients[i] != nil {
			t.Fatalf("got upstream %q, want each once", upstream)
		}
		clients[i] = c
	}
	return clients
}

// tellsUpstream is a handler for these addresses whose 101 has X-Upstream.
func tellsUpstream(drain *Drain, addresses ...string) *Handler {
	return &Handler{
		Upstreams: upstreams(addresses...),
		Drain:     drain,
		Headers: &headers.Handler{Response: &headers.RespHeaderOps{HeaderOps: &headers.HeaderOps{
			Set: http.Header{"X-Upstream": {"{http.reverse_proxy.upstream.hostport}"}},
		}}},
	}
}

func TestTunnelsOfARemovedUpstreamAreEvicted(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	drain := &Drain{EvictPeriod: caddy.Duration(10 * time.Millisecond), CloseCode: 4001, CloseReason: "moving"}
	both := tellsUpstream(drain, a.Addr, b.Addr)
	unload := load(t, both)
	p := serve(t, both)
	clients := openAt(t, p, a, b)

	onlyB := tellsUpstream(nil, b.Addr)
	load(t, onlyB)
	after := serve(t, onlyB)
	clients[0].Echo("as long as both are loaded")
	unload()
	clients[0].ExpectFrame(testbed.Close, string(testbed.NewClose(4001, "moving").Payload))
	clients[0].WriteFrame(testbed.NewClose(4001, ""))
	clients[0].ExpectEOF()
	expectFields(t, after.closedLine(), map[string]any{
		"reason": "evicted", "evicted_by": "reload", "closed_by": "proxy", "upstream": a.Addr,
	})

	clients[1].Echo("still here")
	clients[1].CloseHandshake(1000)
	for _, c := range clients {
		c.Close()
	}
}

func TestTunnelsMayStayWithARemovedUpstream(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	h := tellsUpstream(&Drain{EvictPeriod: -1}, up.Addr)
	unload := load(t, h)
	clients := openAt(t, serve(t, h), up)
	unload()
	if orphans := orphans(process.live); len(orphans) > 0 {
		t.Errorf("%d tunnels would be ended", len(orphans))
	}
	clients[0].Echo("still here")
	clients[0].CloseHandshake(1000)
	clients[0].Close()
}

// A handshake that was under way when its upstream was removed makes a tunnel
// that nobody has found.
func TestTunnelThatComesTooLateIsEvicted(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, nil)
	h := tellsUpstream(nil, up.Addr)
	unload := load(t, h)
	c := testbed.Dial(t, serve(t, h).Addr)
	c.Send(testbed.HandshakeRequest("/", c.Host))
	u := up.Next(t)
	u.ReadRequest()
	unload()
	u.Send(testbed.HandshakeResponse("dGhlIHNhbXBsZSBub25jZQ=="))
	if got := c.Response().StatusCode; got != 101 {
		t.Fatalf("status %d, want 101", got)
	}
	c.ExpectClose(1012)
	c.Close()
	u.Close()
}

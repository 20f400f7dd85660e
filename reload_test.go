package websocketproxy

import (
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// load provisions h as Caddy would; several handlers may be loaded at a time.
// unload is called at the end of the test, if not before. Whoever loads more
// than one checks with expectNothingHeld in a Cleanup of its own.
func load(tb testing.TB, h *Handler) (unload func()) {
	tb.Helper()
	ctx, cancel := newContext()
	unload = sync.OnceFunc(func() {
		if err := h.Cleanup(); err != nil {
			tb.Errorf("cleaning up: %v", err)
		}
		cancel()
	})
	tb.Cleanup(unload)
	if err := h.Provision(ctx); err != nil {
		tb.Fatalf("provisioning: %v", err)
	}
	return unload
}

// serve starts a server for a handler that is loaded already.
func serve(tb testing.TB, h *Handler) *testProxy {
	tb.Helper()
	return serveWith(tb, h, (*httptest.Server).Start)
}

// upstreams makes the configuration of upstreams at these addresses.
func upstreams(dials ...string) []*Upstream {
	var list []*Upstream
	for _, dial := range dials {
		list = append(list, &Upstream{Dial: dial})
	}
	return list
}

func TestCountsSurviveAReload(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	stay := &Drain{EvictPeriod: -1}
	before := &Handler{Upstreams: upstreams(up.Addr), Drain: stay}
	unloadBefore := load(t, before)
	first := testbed.Dial(t, serve(t, before).Addr)
	first.Handshake("/")

	// As in a reload: the new configuration is there before the old one goes.
	after := &Handler{Upstreams: upstreams(up.Addr), Drain: stay}
	unloadAfter := load(t, after)
	unloadBefore()
	if got := tunnelsOf(up.Addr); got != 1 {
		t.Errorf("%d tunnels counted after the reload, want 1", got)
	}
	second := testbed.Dial(t, serve(t, after).Addr)
	second.Handshake("/")
	if got := tunnelsOf(up.Addr); got != 2 {
		t.Errorf("%d tunnels counted, want 2", got)
	}
	first.Echo("still open")

	unloadAfter()
	if got := tunnelsOf(up.Addr); got != 2 {
		t.Errorf("%d tunnels counted when no configuration is left, want 2", got)
	}
	first.CloseHandshake(1000)
	first.Close()
	eventually(t, "one tunnel is left", func() bool { return tunnelsOf(up.Addr) == 1 })
	second.CloseHandshake(1000)
	second.Close()
}

func TestTunnelsOfUnloadedConfigurationsCountForNewOnes(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	before := &Handler{Upstreams: upstreams(up.Addr), Drain: &Drain{EvictPeriod: -1}}
	unload := load(t, before)
	old := testbed.Dial(t, serve(t, before).Addr)
	old.Handshake("/")
	unload() // and for a while no configuration names the upstream

	after := &Handler{Upstreams: []*Upstream{{Dial: up.Addr, MaxTunnels: 1}}, LoadBalancing: withoutQueue()}
	load(t, after)
	p := serve(t, after)
	expectRefused(t, p, 503)
	old.CloseHandshake(1000)
	old.Close()
	eventually(t, "the tunnel is not counted any more", func() bool { return tunnelsOf(up.Addr) == 0 })
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/")
	c.CloseHandshake(1000)
	c.Close()
}

func TestHandlersShareTheCountsOfAnUpstream(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	onlyA := &Handler{Upstreams: upstreams(a.Addr)}
	both := &Handler{
		Upstreams:     []*Upstream{{Dial: a.Addr, MaxTunnels: 3}, {Dial: b.Addr, MaxTunnels: 3}},
		LoadBalancing: withoutQueue(),
	}
	load(t, onlyA)
	load(t, both)
	toA, toBoth := serve(t, onlyA), serve(t, both)
	var clients []*testbed.Client
	open := func(p *testProxy) {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/")
		clients = append(clients, c)
	}
	open(toA)
	open(toA)
	open(toBoth) // to b, which has fewer
	open(toBoth)
	if gotA, gotB := tunnelsOf(a.Addr), tunnelsOf(b.Addr); gotA != 2 || gotB != 2 {
		t.Errorf("%d and %d tunnels, want 2 and 2", gotA, gotB)
	}
	open(toA) // whose handler has no limit
	open(toBoth)
	if gotA, gotB := tunnelsOf(a.Addr), tunnelsOf(b.Addr); gotA != 3 || gotB != 3 {
		t.Errorf("%d and %d tunnels, want 3 and 3", gotA, gotB)
	}
	expectRefused(t, toBoth, 503)
	for _, c := range clients {
		c.CloseHandshake(1000)
		c.Close()
	}
}

func TestHandshakeOutlivesItsHandler(t *testing.T) {
	for name, loadAgain := range map[string]bool{"and a new one comes": true, "and none comes": false} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { expectNothingHeld(t) })
			up := testbed.NewUpstream(t, nil)
			before := &Handler{Upstreams: upstreams(up.Addr)}
			unload := load(t, before)
			c := testbed.Dial(t, serve(t, before).Addr)
			c.Send(testbed.HandshakeRequest("/", c.Host))
			u := up.Next(t)
			u.ReadRequest() // the upstream has been chosen and has not answered
			unload()
			if loadAgain {
				load(t, &Handler{Upstreams: upstreams(up.Addr)})
			}
			if got := tunnelsOf(up.Addr); got != 1 {
				t.Errorf("%d tunnels counted during the handshake, want 1", got)
			}
			u.Send(testbed.HandshakeResponse("dGhlIHNhbXBsZSBub25jZQ=="))
			if got := c.Response().StatusCode; got != 101 {
				t.Fatalf("status %d, want 101", got)
			}
			c.WriteFrame(testbed.NewFrame(testbed.Text, "hello"))
			u.ExpectFrame(testbed.Text, "hello")
			if got := tunnelsOf(up.Addr); got != 1 {
				t.Errorf("%d tunnels counted, want 1", got)
			}
			c.Close()
			u.ExpectEOF()
			u.Close()
			eventually(t, "the tunnel is not counted any more", func() bool { return tunnelsOf(up.Addr) == 0 })
		})
	}
}

func TestFailedProvisionLeavesOtherHandlersAlone(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	const address = "localhost:9000"
	load(t, &Handler{Upstreams: upstreams(address)})
	for name, bad := range map[string]*Handler{
		"before it took anything": {Upstreams: upstreams(address), TrustedProxies: []string{"nonsense"}},
		"after it took one":       {Upstreams: upstreams(address, "localhost:1-2")},
		"before it took the last": {Upstreams: upstreams("localhost", address)},
		"with the address twice":  {Upstreams: upstreams(address, address, "localhost")},
	} {
		ctx, cancel := newContext()
		if err := bad.Provision(ctx); err == nil {
			t.Errorf("%s: provisioning did not fail", name)
		}
		if err := bad.Cleanup(); err != nil {
			t.Errorf("%s: cleaning up: %v", name, err)
		}
		cancel()
		if _, known := process.table.Info(address); !known || process.table.Held().References != 1 {
			t.Errorf("%s: held are %+v, want one reference to what was there", name, process.table.Held())
		}
	}
}

// expectRefused makes a handshake that is refused, and returns the header.
func expectRefused(tb testing.TB, p *testProxy, want int) map[string][]string {
	tb.Helper()
	c := testbed.Dial(tb, p.Addr)
	c.Send(testbed.HandshakeRequest("/", c.Host))
	resp := c.Response()
	if resp.StatusCode != want {
		tb.Errorf("status %d, want %d", resp.StatusCode, want)
	}
	c.Body(resp)
	return resp.Header
}

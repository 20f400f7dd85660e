package websocketproxy

import (
	"net/http"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestClientsAreKnownByAddressOrNetwork(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1":              "192.0.2.1/32",
		"::ffff:192.0.2.1":       "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6":   "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::":    "2001:db8:1:2::/64",
		"fe80::1%eth0":           "fe80::/64",
		"":                       "",
		"@":                      "",
		"client.example.invalid": "",
	} {
		got, known := upstream.ClientOf(ip)
		if known != (want != "") || known && got.String() != want {
			t.Errorf("%q is known as %v (%v), want %q", ip, got, known, want)
		}
	}
}

func TestTunnelsPerClient(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{Upstreams: upstreams(up.Addr), Limits: &Limits{MaxTunnelsPerClient: 2}})
	a, b := testbed.Dial(t, p.Addr), testbed.Dial(t, p.Addr)
	a.Handshake("/")
	b.Handshake("/")
	p.expectRefusal(causeClientLimit, http.StatusTooManyRequests, func() {
		expectRetryAfter(t, expectRefused(t, p, http.StatusTooManyRequests))
	})
	// A client may know of its tunnel before the registry does.
	eventually(t, "both tunnels are live", func() bool { return process.live.Count() == 2 })
	a.CloseHandshake(1000)
	a.Close()
	eventually(t, "the tunnel is over", func() bool { return process.live.Count() == 1 })
	testbed.Dial(t, p.Addr).Handshake("/")
	expectRefused(t, p, http.StatusTooManyRequests)
}

// A handshake that comes to nothing gives the client's place back.
func TestRefusedHandshakesTakeNoPlace(t *testing.T) {
	for name, addr := range map[string]string{
		"no upstream":    testbed.RefusedAddr(t),
		"another answer": testbed.NewUpstream(t, testbed.Respond("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")).Addr,
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &Handler{Upstreams: upstreams(addr), Limits: &Limits{MaxTunnelsPerClient: 1}})
			for range 3 {
				c := testbed.Dial(t, p.Addr)
				c.Send(testbed.HandshakeRequest("/", c.Host))
				resp := c.Response()
				if resp.StatusCode == http.StatusTooManyRequests {
					t.Errorf("status %d", resp.StatusCode)
				}
				c.Body(resp)
				c.Close()
			}
		})
	}
}

func TestHandlersThatCountClientsTogether(t *testing.T) {
	up, other := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	limited := func(name, addr string) *Handler {
		return &Handler{Name: name, Upstreams: upstreams(addr), Limits: &Limits{MaxTunnelsPerClient: 1}}
	}
	for name, test := range map[string]struct {
		a, b     *Handler
		together bool
	}{
		"same upstreams":    {limited("", up.Addr), limited("", up.Addr), true},
		"same name":         {limited("chat", up.Addr), limited("chat", other.Addr), true},
		"other upstreams":   {limited("", up.Addr), limited("", other.Addr), false},
		"other name":        {limited("chat", up.Addr), limited("game", up.Addr), false},
		"one has no limit":  {limited("", up.Addr), &Handler{Upstreams: upstreams(up.Addr)}, false},
		"and that is first": {&Handler{Upstreams: upstreams(up.Addr)}, limited("", up.Addr), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { expectNothingHeld(t) })
			load(t, test.a)
			load(t, test.b)
			a, b := serve(t, test.a), serve(t, test.b)
			testbed.Dial(t, a.Addr).Handshake("/")
			if test.together {
				expectRefused(t, b, http.StatusTooManyRequests)
				return
			}
			testbed.Dial(t, b.Addr).Handshake("/")
		})
	}
}

// A reload gives nobody a fresh quota, and no two routes a common one.
func TestClientsAreCountedOnWhenUpstreamsChange(t *testing.T) {
	limited := func(addrs ...string) *Handler {
		return &Handler{Upstreams: upstreams(addrs...), Limits: &Limits{MaxTunnelsPerClient: 1}}
	}
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	t.Cleanup(func() { expectNothingHeld(t) })
	first := limited(a.Addr)
	unload := load(t, first)
	testbed.Dial(t, serve(t, first).Addr).Handshake("/")
	for _, next := range []*Handler{limited(a.Addr, b.Addr), limited(b.Addr)} {
		unloadNext := load(t, next)
		unload()
		unload = unloadNext
		if process.evictor.ClientGroup(next.loaded) != process.evictor.ClientGroup(first.loaded) {
			t.Error("the successor counts anew")
		}
		expectRefused(t, serve(t, next), http.StatusTooManyRequests)
	}
	fresh := limited(a.Addr)
	load(t, fresh)
	testbed.Dial(t, serve(t, fresh).Addr).Handshake("/")
}

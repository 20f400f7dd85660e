package websocketproxy

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// failingAddresses are those that passive checks have found failing.
func failingAddresses() map[string]bool {
	failing := make(map[string]bool)
	for _, u := range process.table.List() {
		if u.Failing {
			failing[u.Address] = true
		}
	}
	return failing
}

// watching returns a handler whose upstreams fail after two failures.
func watching(dials ...string) *Handler {
	none := 0
	return &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{Retries: &none},
		HealthChecks: &HealthChecks{Passive: &PassiveHealthChecks{
			FailDuration: caddy.Duration(time.Minute), MaxFails: 2,
		}},
	}
}

// whileNobodyFails has clients do something to an upstream five times, after which
// it has to be as good as the other one, whose clients have done nothing.
func whileNobodyFails(t *testing.T, h *Handler, do func(p *testProxy)) {
	t.Helper()
	p := newProxy(t, h)
	for range 5 {
		do(p)
	}
	eventually(t, "the tunnels are over", func() bool { return process.live.Count() == 0 })
	if failing := failingAddresses(); len(failing) > 0 {
		t.Errorf("failing are %v, want none", failing)
	}
	if n := p.logs.FilterMessage("upstream fails; it gets tunnels only if no other one can").Len(); n > 0 {
		t.Errorf("%d lines tell that an upstream fails, want none", n)
	}
}

// Whatever comes after an upstream was connected to, a client may have caused: a path
// that the upstream does not like, or something that it repeats.
func TestWhatClientsCanCauseIsHeldAgainstNobody(t *testing.T) {
	for name, script := range map[string]testbed.Script{
		"closed at once":                testbed.CloseAtOnce,
		"closed after the request":      testbed.CloseAfterHead,
		"reset after the request":       testbed.ResetAfterHead,
		"garbage":                       testbed.Respond("nonsense\r\n\r\n"),
		"a 101 without the key":         testbed.Respond("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
		"all subprotocols repeated":     testbed.EchoWith("Sec-WebSocket-Protocol: a, b"),
		"no answer in time":             testbed.Silent,
		"another status":                testbed.Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
		"the status of a broken server": testbed.Respond("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, script)
			h := watching(up.Addr)
			if name == "no answer in time" {
				h.Timeouts = &Timeouts{Handshake: caddy.Duration(50 * time.Millisecond)}
			}
			whileNobodyFails(t, h, func(p *testProxy) {
				c := testbed.Dial(t, p.Addr)
				c.Send(testbed.HandshakeRequest("/", c.Host, "Sec-WebSocket-Protocol: a, b"))
				c.Body(c.Response())
				c.Close()
			})
		})
	}
}

// Servers reset connections for a frame that they do not like, and close them for a
// message.
func TestTunnelsThatDieAtOnceAreHeldAgainstNobody(t *testing.T) {
	for name, end := range map[string]func(u *testbed.Conn){
		"a reset":       func(u *testbed.Conn) { u.Reset() },
		"a Close frame": func(u *testbed.Conn) { u.WriteFrame(testbed.NewClose(1011, "sorry")); u.Close() },
		"an end":        func(u *testbed.Conn) { u.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			whileNobodyFails(t, watching(up.Addr), func(p *testProxy) {
				c := testbed.Dial(t, p.Addr)
				c.Send(testbed.HandshakeRequest("/", c.Host))
				u := up.Next(t)
				u.AcceptHandshake()
				expectStatus(t, c.Response(), http.StatusSwitchingProtocols, nil)
				c.Tolerate()
				end(u)
				c.Drain()
				c.Close()
			})
		})
	}
}

// A sticky client stays at its upstream whatever another one asks for there.
func TestClientsDoNotMoveEachOther(t *testing.T) {
	script := func(name string) testbed.Script {
		return func(tb testing.TB, c *testbed.Conn) {
			c.Tolerate()
			req := c.ReadRequest()
			if req.URL.Path == "/unknown" {
				return
			}
			c.Accept(req, "X-Name: "+name)
			c.Drain()
		}
	}
	a, b := testbed.NewUpstream(t, script("a")), testbed.NewUpstream(t, script("b"))
	h := with(t, a.Addr, `{"load_balancing": {"selection_policy": {"policy": "cookie"}}}`)
	h.Upstreams = append(h.Upstreams, &Upstream{Dial: b.Addr})
	p := newProxy(t, h)
	open := func(path, cookie string) *http.Response {
		c := testbed.Dial(t, p.Addr)
		defer c.Close()
		c.Send(testbed.HandshakeRequest(path, c.Host, "Cookie: "+cookie))
		return c.Response()
	}
	first := open("/", "x=y")
	cookie, _, _ := strings.Cut(first.Header.Get("Set-Cookie"), ";")
	for range 5 {
		expectStatus(t, open("/unknown", cookie), http.StatusBadGateway, nil)
	}
	again := open("/", cookie)
	expectStatus(t, again, http.StatusSwitchingProtocols, map[string]string{"X-Name": first.Header.Get("X-Name"), "Set-Cookie": ""})
}

// What is said to an upstream before the handshake may depend on the request.
func TestFailuresToConnectThatClientsCanCause(t *testing.T) {
	for name, transport := range map[string]map[string]any{
		"by the server name":         {"tls": map[string]any{"server_name": "{http.request.host}"}},
		"by their address":           {"proxy_protocol": "v1", "tls": map[string]any{}},
		"by an address it is not":    {"proxy_protocol": "v1"},
		"not with a name of our own": {"tls": map[string]any{"server_name": "{env.NO_SUCH_NAME}example.com"}},
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.CloseAtOnce)
			h := watching(up.Addr)
			h.TransportRaw = withTransport(t, up.Addr, transport).TransportRaw
			try := func(p *testProxy) {
				c := testbed.Dial(t, p.Addr)
				c.Send(testbed.HandshakeRequest("/", c.Host))
				c.Body(c.Response())
				c.Close()
			}
			if name != "not with a name of our own" {
				whileNobodyFails(t, h, try)
				return
			}
			p := newProxy(t, h)
			for range 3 {
				try(p)
			}
			if !failingAddresses()[up.Addr] {
				t.Error("not failing after three TLS handshakes that were closed")
			}
		})
	}
}

// Connecting fails all the same, whatever is said later.
func TestConnectingCountsWhateverDependsOnTheRequest(t *testing.T) {
	dead := testbed.RefusedAddr(t)
	h := watching(dead)
	h.TransportRaw = withTransport(t, dead, map[string]any{
		"proxy_protocol": "v1", "tls": map[string]any{"server_name": "{http.request.host}"},
	}).TransportRaw
	p := newProxy(t, h)
	for range 3 {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", c.Host))
		c.Body(c.Response())
		c.Close()
	}
	if !failingAddresses()[dead] {
		t.Error("not failing after three connections that were refused")
	}
}

func TestDialFailuresCount(t *testing.T) {
	dead, up := testbed.RefusedAddr(t), testbed.NewUpstream(t, testbed.Echo)
	h := watching(dead, up.Addr)
	h.LoadBalancing = nil // retries hide it from clients
	p := newProxy(t, h)
	for range 20 {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/")
		c.Close()
	}
	if !failingAddresses()[dead] || failingAddresses()[up.Addr] {
		t.Errorf("failing are %v, want only %s", failingAddresses(), dead)
	}
	// The least loaded one was tried first, until it was known to fail.
	if got := p.logs.FilterMessage("trying another upstream").Len(); got != 2 {
		t.Errorf("%d handshakes were tried again, want 2", got)
	}
}

func fail(h *Handler, i, times int) {
	for range times {
		process.table.Failed(h.pool.Fixed[i].Failures)
	}
}

// Clients decide what is made of placeholders.
func TestNothingIsHeldAgainstExpandedAddresses(t *testing.T) {
	dead := testbed.RefusedAddr(t)
	h := watching("{http.request.header.Backend}")
	p := newProxy(t, h)
	for range 5 {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", c.Host, "Backend: "+dead))
		c.Body(c.Response())
		c.Close()
	}
	if got := process.table.Held(); got.Failures > 0 || got.Watched > 0 {
		t.Errorf("failures are remembered of %d addresses and counted for %d, want none", got.Failures, got.Watched)
	}
}

func TestPassiveChecksThatAreOff(t *testing.T) {
	for name, cfg := range map[string]PassiveHealthChecks{
		"fail_duration": {FailDuration: -1},
		"max_fails":     {MaxFails: -1},
	} {
		t.Run(name, func(t *testing.T) {
			h := watching("a:1")
			h.HealthChecks.Passive = &cfg
			load(t, h)
			if f := h.pool.Fixed[0].Failures; f != nil {
				t.Errorf("failures are counted: %+v", f)
			}
		})
	}
}

func TestFailuresCountForATransport(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	one, same, other := watching(hostA), watching(hostA), watching(hostA)
	same.TransportRaw = []byte(` {"protocol":"http" } `)
	other.TransportRaw = []byte(`{"protocol": "http", "dial_timeout": "1s"}`)
	for _, h := range []*Handler{one, same, other} {
		load(t, h)
	}
	failuresOf := func(h *Handler) *upstream.Failures { return h.pool.Fixed[0].Failures }
	if failuresOf(one) != failuresOf(same) {
		t.Error("handlers with the same transport do not share what they know")
	}
	if failuresOf(one) == failuresOf(other) {
		t.Error("what fails with one transport counts for another one")
	}
}

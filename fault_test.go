package websocketproxy

import (
	"net/http"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestUpstreamThatCannotBeReached(t *testing.T) {
	missing := t.TempDir() + "/no.sock"
	tests := map[string]struct {
		dial string
		says string
	}{
		"refused port":        {testbed.RefusedAddr(t), "refused"},
		"unknown host":        {"host.invalid:80", "host.invalid"},
		"missing unix socket": {"unix/" + missing, missing},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := proxyTo(t, test.dial)
			c := testbed.Dial(t, p.Addr)
			line := p.expectRefusal(causeDialFailed, http.StatusBadGateway, func() {
				expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusBadGateway, notFromNext(nil))
			})
			expectError(t, line, "dialing")
			expectError(t, line, test.says)
			expectFields(t, line, map[string]any{"upstream": test.dial})
			expectOrdinary(t, c)
		})
	}
}

func TestUpstreamThatKeepsTheHandshakeWaiting(t *testing.T) {
	// The first byte of an answer ends neither wait.
	tests := map[string]struct {
		script  testbed.Script
		options string
	}{
		"accepts and is silent":          {testbed.BlackHole, `{"timeouts": {"handshake": 50000000}}`},
		"reads and is silent":            {testbed.Silent, `{"timeouts": {"handshake": 50000000}}`},
		"sends half a header":            {testbed.HalfHead, `{"timeouts": {"handshake": 50000000}}`},
		"sends hints only":               {testbed.RespondKeepOpen("HTTP/1.1 103 Early Hints\r\n\r\n"), `{"timeouts": {"handshake": 50000000}}`},
		"is silent for the transport":    {testbed.Silent, `{"timeouts": {"handshake": -1}, "transport": {"protocol": "http", "response_header_timeout": 50000000}}`},
		"sends a half for the transport": {testbed.HalfHead, `{"transport": {"protocol": "http", "response_header_timeout": 50000000}}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, test.script)
			p := newProxy(t, with(t, up.Addr, test.options))
			c := testbed.Dial(t, p.Addr)
			line := p.expectRefusal(causeHandshakeTimeout, http.StatusGatewayTimeout, func() {
				expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusGatewayTimeout, notFromNext(nil))
			})
			expectFields(t, line, map[string]any{"upstream": up.Addr})
			expectOrdinary(t, c)
			if n := tunnelsOf(up.Addr); n != 0 {
				t.Errorf("%d tunnels are counted, want 0", n)
			}
			if name != "accepts and is silent" { // that one does not notice
				up.WaitOpen(t, 0)
			}
		})
	}
}

// After the 101 it is the tunnel's timeouts that count.
func TestHandshakeTimeoutDoesNotEndATunnel(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, with(t, up.Addr, `{"timeouts": {"handshake": 500000000},
		"transport": {"protocol": "http", "response_header_timeout": 400000000}}`))
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/")
	c.ExpectNothing(600 * time.Millisecond)
	c.Echo("still there")
	c.CloseHandshake(1000)
}

func TestUpstreamThatClosesEarly(t *testing.T) {
	for name, script := range map[string]testbed.Script{
		"at once":               testbed.CloseAtOnce,
		"after the request":     testbed.CloseAfterHead,
		"by reset":              testbed.ResetAfterHead,
		"inside of the request": closeInsideHead,
	} {
		t.Run(name+", alone", func(t *testing.T) {
			up := testbed.NewUpstream(t, script)
			proxyTo(t, up.Addr).expectGateway(t, up, causeClosed, http.StatusBadGateway, "")
			if n := up.Accepted(); n != 1 {
				t.Errorf("the upstream got %d connections, want 1", n)
			}
		})
		t.Run(name+", beside another", func(t *testing.T) {
			up := testbed.NewUpstream(t, script)
			other := testbed.NewUpstream(t, testbed.Echo)
			p := newProxy(t, &Handler{
				Upstreams:     []*Upstream{{Dial: up.Addr}, {Dial: other.Addr}},
				LoadBalancing: &LoadBalancing{SelectionPolicyRaw: []byte(`{"policy": "first"}`)},
			})
			p.accepted(t)
			up.WaitAccepted(t, 1)
			if n := p.logs.FilterMessage("handshake refused").Len(); n != 0 {
				t.Errorf("%d refusals are logged, want 0", n)
			}
			expectFields(t, p.closedLine(), map[string]any{"upstream": other.Addr})
		})
	}
}

// closeInsideHead closes without having read all of the request.
func closeInsideHead(tb testing.TB, c *testbed.Conn) {
	tb.Helper()
	c.Tolerate()
	c.Expect("GET ")
}

// Once an upstream has begun to answer, it has seen the handshake: a ticket in
// it may be used up.
func TestNoRetryAfterAByteOfAnAnswer(t *testing.T) {
	for name, raw := range map[string]string{
		"one byte":      "H",
		"a hint":        "HTTP/1.1 103 Early Hints\r\n\r\n",
		"half a header": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso",
		"garbage":       "\x15\x03\x01\x00\x02\x02\x46",
		"a wrong 101":   switching("Upgrade: h2c"),
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.Respond(raw))
			other := testbed.NewUpstream(t, testbed.Echo)
			p := newProxy(t, &Handler{
				Upstreams:     []*Upstream{{Dial: up.Addr}, {Dial: other.Addr}},
				LoadBalancing: &LoadBalancing{SelectionPolicyRaw: []byte(`{"policy": "first"}`)},
			})
			p.expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "")
			if n := other.Accepted(); n != 0 {
				t.Errorf("the other upstream got %d connections, want 0", n)
			}
		})
	}
}

// Nor when it was slow: the other one would get what is left of the time.
func TestNoRetryAfterTheHandshakeTimeout(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Silent)
	other := testbed.NewUpstream(t, testbed.Echo)
	h := with(t, up.Addr, `{"timeouts": {"handshake": 50000000},
		"load_balancing": {"selection_policy": {"policy": "first"}}}`)
	h.Upstreams = append(h.Upstreams, &Upstream{Dial: other.Addr})
	newProxy(t, h).expectGateway(t, up, causeHandshakeTimeout, http.StatusGatewayTimeout, "took too long")
	if n := other.Accepted(); n != 0 {
		t.Errorf("the other upstream got %d connections, want 0", n)
	}
}

func TestClientThatGoesDuringTheHandshake(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	for name, script := range map[string]struct {
		answer string
		leave  func(*testbed.Client)
	}{
		"closes":                       {"", func(c *testbed.Client) { c.Close() }},
		"resets":                       {"", func(c *testbed.Client) { c.Reset() }},
		"closes when there is a half":  {"HTTP/1.1 101 Switch", func(c *testbed.Client) { c.Close() }},
		"ends only its sending":        {"", func(c *testbed.Client) { c.CloseWrite() }},
		"closes when there was a hint": {"HTTP/1.1 103 Early Hints\r\n\r\n", func(c *testbed.Client) { c.Close() }},
		"resets when there was a hint": {"HTTP/1.1 103 Early Hints\r\n\r\n", func(c *testbed.Client) { c.Reset() }},
	} {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			c.Send(testbed.HandshakeRequest("/", "example.com"))
			u := up.Next(t)
			u.ReadRequest()
			u.Send(script.answer)
			line := p.expectRefusal(causeClientGone, statusClientClosed, func() {
				script.leave(c)
				u.ExpectClosed()
			})
			expectFields(t, line, map[string]any{"upstream": up.Addr})
			u.Close()
			up.WaitOpen(t, 0)
		})
	}
}

func TestClientThatGoesBetweenTries(t *testing.T) {
	addr := testbed.RefusedAddr(t)
	p := newProxy(t, with(t, addr, `{"timeouts": {"handshake": -1},
		"load_balancing": {"try_duration": 60000000000, "try_interval": 1000000}}`))
	c := testbed.Dial(t, p.Addr)
	p.expectRefusal(causeClientGone, statusClientClosed, func() {
		c.Send(testbed.HandshakeRequest("/", "example.com"))
		p.line("trying another upstream")
		c.Close()
	})
}

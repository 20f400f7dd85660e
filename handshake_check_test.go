package websocketproxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// handshakeWith is a handshake with another method and a body.
func handshakeWith(method, body string, extra ...string) string {
	raw := testbed.HandshakeRequest("/", "example.com", extra...)
	return method + strings.TrimPrefix(raw, http.MethodGet) + body
}

func TestWrongHandshakesAreRefused(t *testing.T) {
	supported := map[string]string{handshake.FieldVersion: "13", "Upgrade": "", "Connection": ""}
	malformed := map[string]string{handshake.FieldVersion: "", "Upgrade": "", "Connection": ""}
	tests := map[string]struct {
		raw    string
		cause  cause
		status int
		fields map[string]string
		says   string
	}{
		"POST": {
			handshakeWith("POST", ""), causeMethod, http.StatusMethodNotAllowed,
			map[string]string{"Allow": "GET"},
			"POST",
		},
		"POST with a body": {
			handshakeWith("POST", "hello", "Content-Length: 5"), causeMethod, http.StatusMethodNotAllowed,
			map[string]string{"Allow": "GET"},
			"POST",
		},
		"OPTIONS": {
			handshakeWith("OPTIONS", ""), causeMethod, http.StatusMethodNotAllowed,
			map[string]string{"Allow": "GET"},
			"OPTIONS",
		},
		"CONNECT": {
			"CONNECT example.com:80" + strings.TrimPrefix(handshakeWith("", ""), " /"), causeMethod,
			http.StatusMethodNotAllowed,
			map[string]string{"Allow": "GET"},
			"CONNECT",
		},
		"no version": {
			handshakeWith("GET", "", "Sec-WebSocket-Version:"), causeMalformed, http.StatusBadRequest,
			supported, "no Sec-WebSocket-Version",
		},
		"differing versions in a list": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 13, 8"), causeMalformed, http.StatusBadRequest,
			supported, "differing",
		},
		"differing versions in two lines": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13"),
			causeMalformed, http.StatusBadRequest, supported, "differing",
		},
		"an older version": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 8"), causeVersion, http.StatusUpgradeRequired,
			map[string]string{handshake.FieldVersion: "13", "Upgrade": "websocket", "Connection": "Upgrade"},
			`"8"`,
		},
		"an older version twice": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 7, 7"), causeVersion, http.StatusUpgradeRequired,
			map[string]string{handshake.FieldVersion: "13", "Upgrade": "websocket", "Connection": "Upgrade"},
			`"7"`,
		},
		"a version that is only numerically 13": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 013"), causeVersion, http.StatusUpgradeRequired,
			map[string]string{handshake.FieldVersion: "13"},
			`"013"`,
		},
		"no key": {
			handshakeWith("GET", "", "Sec-WebSocket-Key:"), causeMalformed, http.StatusBadRequest, malformed, "0 ",
		},
		"the same key twice": {
			handshakeWith("GET", "", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
			causeMalformed, http.StatusBadRequest, malformed, "2 ",
		},
		"a body": {
			handshakeWith("GET", "hello", "Content-Length: 5"),
			causeMalformed, http.StatusBadRequest, malformed, "body",
		},
		"a chunked body": {
			handshakeWith("GET", "5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
			causeMalformed, http.StatusBadRequest, malformed, "body",
		},
		"a chunked body without content": {
			handshakeWith("GET", "0\r\n\r\n", "Transfer-Encoding: chunked"),
			causeMalformed, http.StatusBadRequest, malformed, "body",
		},
		"no key and a wrong version": {
			handshakeWith("GET", "", "Sec-WebSocket-Key:", "Sec-WebSocket-Version: 1"),
			causeVersion, http.StatusUpgradeRequired,
			map[string]string{handshake.FieldVersion: "13"},
			"version",
		},
	}
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			line := p.expectRefusal(test.cause, test.status, func() {
				expectAnswer(t, c, test.raw, test.status, notFromNext(test.fields))
			})
			expectError(t, line, test.says)
			expectOrdinary(t, c)
		})
	}
	if n := up.Accepted(); n != 0 {
		t.Errorf("the upstream got %d connections, want 0", n)
	}
}

// Chargers that speak OCPP send such keys, and what they talk to accepts them.
func TestAnyKeyIsTheUpstreamsToJudge(t *testing.T) {
	for name, key := range map[string]string{
		"8 bytes":            "c2hvcnRrZXk=",
		"32 bytes":           "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		"no base64":          "not base64 at all!",
		"without padding":    "dGhlIHNhbXBsZSBub25jZQ",
		"the other alphabet": "-_-_-_-_-_-_-_-_-_-_-Q==",
		"two in a line":      "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			c := testbed.Dial(t, proxyTo(t, up.Addr).Addr)
			c.Send(testbed.HandshakeRequest("/", c.Host, "Sec-WebSocket-Key: "+key))
			u := up.Next(t)
			if got := u.ReadRequest().Header.Get(handshake.FieldKey); got != key {
				t.Errorf("the upstream gets the key %q, want %q", got, key)
			}
			u.Send(testbed.HandshakeResponse(key))
			expectStatus(t, c.Response(), http.StatusSwitchingProtocols, map[string]string{handshake.FieldAccept: testbed.AcceptKey(key)})
			c.Tolerate()
			u.Tolerate()
			c.Close()
			u.Drain()
		})
	}
}

func TestTargetsThatAreNotPassedOn(t *testing.T) {
	for name, test := range map[string]struct {
		line, uri string
	}{
		"a URL of no path":       {line: "GET x:admin/secret HTTP/1.1"},
		"a URL of another kind":  {line: "GET ftp://example.com/ws HTTP/1.1"},
		"a space in a query":     {uri: "/ws?a HTTP/1.0"},
		"a tab in a query":       {uri: "/ws?a\tb"},
		"a line in a query":      {uri: "/ws?a\r\nX-Admin: 1"},
		"a DEL in a query":       {uri: "/ws?a\x7f"},
		"a path of no beginning": {uri: "ws"},
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.Echo)
			p := proxyTo(t, up.Addr)
			if test.line == "" { // what is there after a rewrite, or over HTTP/2
				p.target = test.uri
				test.line = "GET / HTTP/1.1"
			}
			raw := strings.Replace(testbed.HandshakeRequest("/", "example.com"), "GET / HTTP/1.1", test.line, 1)
			c := testbed.Dial(t, p.Addr)
			line := p.expectRefusal(causeMalformed, http.StatusBadRequest, func() {
				expectAnswer(t, c, raw, http.StatusBadRequest, notFromNext(nil))
			})
			expectError(t, line, "target")
			if n := up.Accepted(); n != 0 {
				t.Errorf("the upstream got %d connections, want none", n)
			}
		})
	}
}

func TestAbsoluteTargetsBecomePaths(t *testing.T) {
	for _, target := range []string{"http://example.com/ws?a=b", "HTTPS://example.com/ws?a=b"} {
		t.Run(target, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			c := testbed.Dial(t, proxyTo(t, up.Addr).Addr)
			c.Send(strings.Replace(testbed.HandshakeRequest("/", "example.com"), "GET / ", "GET "+target+" ", 1))
			u := up.Next(t)
			u.AcceptHandshake()
			if line, _, _ := strings.Cut(u.RawHead(), "\r\n"); line != "GET /ws?a=b HTTP/1.1" {
				t.Errorf("%s becomes %q", target, line)
			}
			expectStatus(t, c.Response(), http.StatusSwitchingProtocols, nil)
			c.Tolerate()
			u.Tolerate()
			c.Close()
			u.Drain()
		})
	}
}

// Applications send tokens as subprotocols, as browsers let them send nothing else.
func TestSubprotocolsOfClientsAreNotLogged(t *testing.T) {
	const token = "eyJhbGciOiJIUzI1NiJ9.e30.secret"
	up := testbed.NewUpstream(t, testbed.RespondKeepOpen(switching("Sec-WebSocket-Protocol: access_token, "+token)))
	// What is no HTTP is shown as far as it goes, but not if it is the request itself.
	mirror := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
		tb.Helper()
		c.Tolerate()
		c.ReadRequest()
		c.Send(c.RawHead())
	})
	for name, test := range map[string]struct{ addr, config string }{
		"none is in the list":       {up.Addr, `{"access": {"subprotocols": ["chat.v1", "chat.v2"]}}`},
		"the upstream repeats all":  {up.Addr, `{}`},
		"it sends the request back": {mirror.Addr, `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, with(t, test.addr, test.config))
			c := testbed.Dial(t, p.Addr)
			c.Send(testbed.HandshakeRequest("/?token="+token, c.Host, "Sec-WebSocket-Protocol: access_token, "+token))
			resp := c.Response()
			if body := c.Body(resp); strings.Contains(body, token) {
				t.Errorf("the client is told: %s", body)
			}
			for _, e := range p.logs.All() {
				if line := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(line, token) || strings.Contains(line, "access_token") {
					t.Errorf("the log has: %s", line)
				}
			}
			p.line("handshake refused")
		})
	}
}

func TestRepeatedVersionIsAccepted(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	for _, lines := range [][]string{
		{"Sec-WebSocket-Version: 13, 13"},
		{"Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"},
		{"Sec-WebSocket-Version: ,13,"},
	} {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/", lines...)
		c.CloseHandshake(1000)
	}
}

// The client waits for a 100 or a final answer before it sends its body.
func TestHandshakeThatExpectsContinueIsRefused(t *testing.T) {
	p := proxyTo(t, testbed.RefusedAddr(t))
	c := testbed.Dial(t, p.Addr)
	p.expectRefusal(causeMalformed, http.StatusBadRequest, func() {
		resp := expectAnswer(t, c, handshakeWith("GET", "", "Content-Length: 5", "Expect: 100-continue"),
			http.StatusBadRequest, notFromNext(nil))
		if !resp.Close {
			t.Error("the connection stays open, though nobody knows whether a body follows")
		}
	})
}

package websocketproxy

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// parse reads a request as a server does.
func parse(tb testing.TB, raw string) *http.Request {
	tb.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		tb.Fatalf("%v in:\n%s", err, raw)
	}
	return r
}

// expectMatch checks the answer of the matcher.
func expectMatch(tb testing.TB, r *http.Request, want bool) {
	tb.Helper()
	got, err := new(MatchWebSocket).MatchWithError(r)
	if got != want || err != nil {
		tb.Errorf("MatchWithError returns %t, %v, want %t, nil", got, err, want)
	}
}

func TestHandshakeIsRecognizedByTokens(t *testing.T) {
	tests := map[string][]string{
		"as in the RFC":                {},
		"other case of the values":     {"Upgrade: WebSocket", "Connection: UPGRADE"},
		"other case of the names":      {"UPGRADE: websocket", "connection: upgrade"},
		"Connection is a list":         {"Connection: keep-alive, Upgrade"},
		"Connection without spaces":    {"Connection: keep-alive,Upgrade,foo"},
		"Connection has several lines": {"Connection: keep-alive", "Connection: Upgrade"},
		"Connection has empty items":   {"Connection: ,, Upgrade ,"},
		"Connection has a tab":         {"Connection: keep-alive,\tUpgrade\t"},
		"Connection says close too":    {"Connection: close, Upgrade"},
		"Upgrade is a list":            {"Upgrade: foo/1, websocket"},
		"Upgrade prefers h2c":          {"Upgrade: h2c, websocket"},
		"Upgrade has several lines":    {"Upgrade: h2c", "Upgrade: WEBSOCKET"},
		"Upgrade names it twice":       {"Upgrade: websocket, websocket"},
		"empty body announced":         {"Content-Length: 0"},
	}
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	for name, lines := range tests {
		t.Run(name, func(t *testing.T) {
			expectMatch(t, parse(t, testbed.HandshakeRequest("/", "example.com", lines...)), true)
			c := testbed.Dial(t, p.Addr)
			c.Handshake("/", lines...)
			c.Echo(name)
			c.CloseHandshake(1000)
		})
	}
}

// lines makes a request of its first line and header lines.
func lines(all ...string) string {
	return strings.Join(append(all, "Host: example.com", "", ""), "\r\n")
}

// notWebSocket are requests that go to the next handler, with the Upgrade field
// that it gets to see.
var notWebSocket = map[string]struct{ raw, seen string }{
	"a plain request": {
		lines("GET / HTTP/1.1"), "",
	},
	"a POST": {
		lines("POST / HTTP/1.1", "Content-Length: 0"), "",
	},
	"Upgrade is not named in Connection": {
		lines("GET / HTTP/1.1", "Upgrade: websocket", "Connection: keep-alive"), "",
	},
	"Upgrade without Connection": {
		lines("GET / HTTP/1.1", "Upgrade: websocket"), "",
	},
	"Connection names a longer word": {
		lines("GET / HTTP/1.1", "Upgrade: websocket", "Connection: Upgraded, x-upgrade"), "",
	},
	"Connection without Upgrade": {
		lines("GET / HTTP/1.1", "Connection: Upgrade"), "",
	},
	"HTTP/1.0": {
		lines("GET / HTTP/1.0", "Connection: Upgrade", "Upgrade: websocket"), "",
	},
	"HTTP/1.0 with POST": {
		lines("POST / HTTP/1.0", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"), "",
	},
	"h2c": {
		lines("GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), "",
	},
	"h2c in another case, twice": {
		lines("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: H2C", "Upgrade: h2C,h2c"), "",
	},
	"h2c among others": {
		lines("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: foo/2, h2c", "Upgrade: bar"), "foo/2, bar",
	},
	"another protocol": {
		lines("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: IRC/6.9"), "IRC/6.9",
	},
	"Upgrade names a longer word": {
		lines("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: xwebsocket, websockets"), "xwebsocket, websockets",
	},
	"Upgrade names a version that WebSocket does not have": {
		lines("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket/13"), "websocket/13",
	},
	"Upgrade is quoted": {
		lines("GET / HTTP/1.1", "Connection: Upgrade", `Upgrade: "websocket"`), `"websocket"`,
	},
	"Upgrade is empty": {
		lines("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade:"), "",
	},
	"only the fields of WebSocket": {
		lines("GET / HTTP/1.1", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), "",
	},
}

func TestOtherRequestsGoToTheNextHandler(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	for name, test := range notWebSocket {
		t.Run(name, func(t *testing.T) {
			r := parse(t, test.raw)
			expectMatch(t, r, !r.ProtoAtLeast(1, 1) && r.Header.Get("Upgrade") != "")
			c := testbed.Dial(t, p.Addr)
			c.Send(test.raw)
			resp := c.Response()
			if body := c.Body(resp); body != nextBody {
				t.Errorf("got %d %q, want %q", resp.StatusCode, body, nextBody)
			}
			if seen := resp.Header.Get("Upgrade-Seen"); seen != test.seen {
				t.Errorf("the next handler sees Upgrade %q, want %q", seen, test.seen)
			}
		})
	}
	if n := up.Accepted(); n != 0 {
		t.Errorf("the upstream got %d connections, want 0", n)
	}
	if n := p.logs.FilterMessage("handshake refused").Len(); n != 0 {
		t.Errorf("%d refusals logged, want 0", n)
	}
}

func TestRequireUpgradeRefusesOtherRequests(t *testing.T) {
	p := newProxy(t, &Handler{
		Upstreams: []*Upstream{{Dial: testbed.RefusedAddr(t)}},
		Access:    &Access{RequireUpgrade: true},
	})
	for name, test := range notWebSocket {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			p.expectRefusal(causeNotWebSocket, http.StatusUpgradeRequired, func() {
				expectAnswer(t, c, test.raw, http.StatusUpgradeRequired, notFromNext(map[string]string{
					"Upgrade": "websocket",
				}))
			})
		})
	}
	t.Run("the connection stays open", func(t *testing.T) {
		c := testbed.Dial(t, p.Addr)
		for range 2 {
			expectAnswer(t, c, lines("GET / HTTP/1.1"), http.StatusUpgradeRequired, notFromNext(map[string]string{
				"Upgrade": "websocket", "Connection": "Upgrade",
			}))
		}
	})
	t.Run("HTTP/2 has no Upgrade", func(t *testing.T) {
		resp := p.serveStream(t, http.MethodGet, nil)
		expectStatus(t, resp, http.StatusUpgradeRequired, notFromNext(map[string]string{
			"Upgrade": "", "Connection": "",
		}))
	})
}

func TestConnectIsRefused(t *testing.T) {
	t.Run("others go to the next handler", func(t *testing.T) {
		expectConnectRefused(t, &Access{})
	})
	t.Run("others are refused too", func(t *testing.T) {
		expectConnectRefused(t, &Access{RequireUpgrade: true})
	})
}

func expectConnectRefused(t *testing.T, access *Access) {
	t.Helper()
	p := newProxy(t, &Handler{Upstreams: []*Upstream{{Dial: testbed.RefusedAddr(t)}}, Access: access})
	c := testbed.Dial(t, p.Addr)
	line := p.expectRefusal(causeConnect, http.StatusMethodNotAllowed, func() {
		expectAnswer(t, c, "CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n",
			http.StatusMethodNotAllowed, notFromNext(map[string]string{"Allow": "GET"}))
	})
	expectError(t, line, "CONNECT")
	if !access.RequireUpgrade {
		expectOrdinary(t, c)
	}
	for name, test := range map[string]struct {
		proto    string
		major    int
		protocol []string
		status   int
	}{
		"HTTP/1.1 with the field of HTTP/2": {"HTTP/1.1", 1, []string{"connect-udp"}, http.StatusMethodNotAllowed},
		"HTTP/2":                            {"HTTP/2.0", 2, nil, http.StatusMethodNotAllowed},
		"HTTP/2 with two protocols":         {"HTTP/2.0", 2, []string{"websocket", "websocket"}, http.StatusMethodNotAllowed},
		"HTTP/2 with another protocol":      {"HTTP/2.0", 2, []string{"connect-udp"}, http.StatusNotImplemented},
		"HTTP/2 in other case":              {"HTTP/2.0", 2, []string{"WebSocket"}, http.StatusNotImplemented},
		"HTTP/3":                            {"HTTP/3.0", 3, nil, http.StatusMethodNotAllowed},
		"HTTP/3 with another protocol":      {"connect-udp", 3, nil, http.StatusNotImplemented},
	} {
		t.Run(name, func(t *testing.T) {
			r := streamRequest(t, http.MethodConnect, http.Header{":protocol": test.protocol})
			r.Proto, r.ProtoMajor = test.proto, test.major
			allow := ""
			if test.status == http.StatusMethodNotAllowed {
				allow = http.MethodGet // RFC 9110 section 15.5.6
			}
			p.expectRefusal(causeConnect, test.status, func() {
				w := httptest.NewRecorder()
				p.ServeHTTP(w, r)
				expectStatus(t, w.Result(), test.status, notFromNext(map[string]string{"Allow": allow}))
			})
		})
	}
}

func TestExtendedConnectIsRecognized(t *testing.T) {
	tests := map[string]struct {
		r    http.Request
		want bool
	}{
		"HTTP/2": {http.Request{
			Method: http.MethodConnect, ProtoMajor: 2, Header: http.Header{":protocol": {"websocket"}},
		}, true},
		"HTTP/2, GET": {http.Request{
			Method: http.MethodGet, ProtoMajor: 2, Header: http.Header{":protocol": {"websocket"}},
		}, false},
		"HTTP/2, a field that only looks like it": {http.Request{
			Method: http.MethodConnect, ProtoMajor: 2, Header: http.Header{"Protocol": {"websocket"}},
		}, false},
		"HTTP/2 with the fields of HTTP/1.1": {http.Request{
			Method: http.MethodGet, ProtoMajor: 2,
			Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}},
		}, false},
		"HTTP/3": {http.Request{
			Method: http.MethodConnect, Proto: "websocket", ProtoMajor: 3,
		}, true},
		"HTTP/3, another protocol": {http.Request{
			Method: http.MethodConnect, Proto: "connect-udp", ProtoMajor: 3,
		}, false},
		"HTTP/3, plain CONNECT": {http.Request{
			Method: http.MethodConnect, Proto: "HTTP/3.0", ProtoMajor: 3,
		}, false},
		"HTTP/1.1 with the field of HTTP/2": {http.Request{
			Method: http.MethodConnect, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{":protocol": {"websocket"}},
		}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { expectMatch(t, &test.r, test.want) })
	}
}

func TestMatcherHasNoOptions(t *testing.T) {
	tests := map[string]struct {
		config string
		fails  bool
	}{
		"alone":       {"websocket", false},
		"an argument": {"websocket yes", true},
		"a block":     {"websocket {\n\tyes\n}", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := new(MatchWebSocket).UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.config))
			if (err != nil) != test.fails {
				t.Errorf("got error %v, want one: %t", err, test.fails)
			}
		})
	}
}

package websocketproxy

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// headOf sends a request to the proxy and returns the head that arrives at the
// upstream, of which up has to be one without script.
func (p *testProxy) headOf(tb testing.TB, up *testbed.Upstream, raw string) (head string) {
	tb.Helper()
	c := testbed.Dial(tb, p.Addr)
	c.Send(raw)
	u := up.Next(tb)
	req := u.ReadRequest()
	u.Accept(req)
	if resp := c.Response(); resp.StatusCode != http.StatusSwitchingProtocols {
		tb.Fatalf("status is %d, want 101", resp.StatusCode)
	}
	u.Close()
	c.ExpectEOF()
	c.Close()
	return u.RawHead()
}

// expectHead compares a head, line by line for the sake of the message.
func expectHead(tb testing.TB, got string, want ...string) {
	tb.Helper()
	want = append(want, "", "")
	if got != strings.Join(want, "\r\n") {
		tb.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// with returns a configuration for up, with the options of a JSON object.
func with(tb testing.TB, up string, options string) *Handler {
	tb.Helper()
	h := new(Handler)
	if err := json.Unmarshal([]byte(options), h); err != nil {
		tb.Fatalf("parsing %s: %v", options, err)
	}
	h.Upstreams = append(h.Upstreams, &Upstream{Dial: up})
	return h
}

func TestRequestOnTheWire(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	t.Run("of a browser", func(t *testing.T) {
		expectHead(t, p.headOf(t, up, lines("GET /a%2Fb//c?x=1&y=%20 HTTP/1.1",
			"Connection: keep-alive, Upgrade",
			"Pragma: no-cache",
			"Cache-Control: no-cache",
			"User-Agent: Mozilla/5.0",
			"Upgrade: WebSocket",
			"Origin: https://Example.com",
			"sec-websocket-version: 13",
			"Cookie: a=1; b=2",
			"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
			"sec-websocket-extensions: permessage-deflate; client_max_window_bits",
			"sec-websocket-protocol: chat,  superchat",
		)),
			"GET /a%2Fb//c?x=1&y=%20 HTTP/1.1",
			"Host: example.com",
			"User-Agent: Mozilla/5.0",
			"Cache-Control: no-cache",
			"Connection: Upgrade",
			"Cookie: a=1; b=2",
			"Origin: https://Example.com",
			"Pragma: no-cache",
			"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
			"Sec-WebSocket-Protocol: chat, superchat",
			"Sec-WebSocket-Version: 13",
			"Upgrade: websocket",
			"Via: 1.1 Caddy",
			"X-Forwarded-For: 127.0.0.1",
			"X-Forwarded-Host: example.com",
			"X-Forwarded-Proto: http",
		)
	})
	t.Run("as short as possible", func(t *testing.T) {
		expectHead(t, p.headOf(t, up, testbed.HandshakeRequest("/", "example.com:8080")),
			"GET / HTTP/1.1",
			"Host: example.com:8080",
			"Connection: Upgrade",
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
			"Sec-WebSocket-Version: 13",
			"Upgrade: websocket",
			"Via: 1.1 Caddy",
			"X-Forwarded-For: 127.0.0.1",
			"X-Forwarded-Host: example.com:8080",
			"X-Forwarded-Proto: http",
		)
	})
	t.Run("with fields for the proxy, and repeated ones", func(t *testing.T) {
		expectHead(t, p.headOf(t, up, testbed.HandshakeRequest("/", "example.com",
			"Connection: Upgrade, X-Hop, sec-websocket-key",
			"Connection: Sec-WebSocket-Version, Sec-WebSocket-Protocol, X-Forwarded-For, X-Forwarded-Proto, Host, Via",
			"X-Hop: 1",
			"Sec-WebSocket-Protocol: chat",
			"Sec-WebSocket-Protocol: superchat",
			"Sec-WebSocket-Accept: forged",
			"X-Forwarded-For: 192.0.2.1",
			"X-Forwarded-Proto: https",
			"X-Forwarded-Host: forged.example",
			"Via: 1.1 other",
			"Keep-Alive: timeout=5",
			"Proxy-Connection: keep-alive",
			"Proxy-Authorization: Basic Og==",
			"TE: trailers",
			"Alt-Svc: h2",
			"Content-Length: 0",
			"Cookie: a=1",
			"Cookie: b=2",
			"X-Empty:",
		)),
			"GET / HTTP/1.1",
			"Host: example.com",
			"Connection: Upgrade",
			"Cookie: a=1",
			"Cookie: b=2",
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
			"Sec-WebSocket-Protocol: chat, superchat",
			"Sec-WebSocket-Version: 13",
			"Upgrade: websocket",
			"Via: 1.1 Caddy",
			"X-Empty: ",
			"X-Forwarded-For: 127.0.0.1",
			"X-Forwarded-Host: example.com",
			"X-Forwarded-Proto: http",
		)
	})
	t.Run("Via is added to", func(t *testing.T) {
		head := p.headOf(t, up, testbed.HandshakeRequest("/", "example.com", "Via: 1.1 other"))
		if want := "Via: 1.1 other\r\nVia: 1.1 Caddy\r\n"; !strings.Contains(head, want) {
			t.Errorf("no %q in:\n%s", want, head)
		}
	})
}

func TestRequestTargetIsPreserved(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	for sent, want := range map[string]string{
		"/":                       "/",
		"//":                      "//",
		"//host/path":             "//host/path",
		"/a//b/../c/./d":          "/a//b/../c/./d",
		"/%41%2f%2F%61":           "/%41%2f%2F%61",
		"/?":                      "/?",
		"/?a=b?c&d=%zz;e":         "/?a=b?c&d=%zz;e",
		"/a%20b?c%20d":            "/a%20b?c%20d",
		"/a+b?c+d":                "/a+b?c+d",
		"/%C3%A4":                 "/%C3%A4",
		"/a[b]?{d}|":              "/a[b]?{d}|",
		"/?{http.request.host}":   "/?{http.request.host}",
		"/{http.request.host}|":   "/%7Bhttp.request.host%7D%7C", // not allowed in a path
		"/:8080/@x,y;z=1!$'()*~":  "/:8080/@x,y;z=1!$'()*~",
		"http://example.com/a?b":  "/a?b",
		"http://example.com":      "/",
		"http://other.example/x%": "",
	} {
		t.Run(sent, func(t *testing.T) {
			raw := testbed.HandshakeRequest(sent, "example.com")
			if want == "" {
				c := testbed.Dial(t, p.Addr)
				expectAnswer(t, c, raw, http.StatusBadRequest, nil) // by the server
				return
			}
			line, _, _ := strings.Cut(p.headOf(t, up, raw), "\r\n")
			if want := "GET " + want + " HTTP/1.1"; line != want {
				t.Errorf("request line is %q, want %q", line, want)
			}
		})
	}
}

func TestHostIsTheClients(t *testing.T) {
	certs := testbed.NewCerts(t)
	plain := testbed.NewUpstream(t, nil)
	secured := testbed.NewTLSUpstream(t, certs.ServerConfig(), nil)
	transport, err := json.Marshal(map[string]any{
		"protocol": "http", "tls": map[string]any{"root_ca_pem_files": []string{certs.CAFile}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		up     *testbed.Upstream
		config *Handler
	}{
		"without TLS": {plain, with(t, plain.Addr, `{}`)},
		"with TLS":    {secured, with(t, secured.Addr, `{"transport": `+string(transport)+`}`)},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, test.config)
			for _, host := range []string{"Chat.Example.com", "example.com:1234", "[::1]:80", "127.0.0.1", "a_b"} {
				raw := testbed.HandshakeRequest("/", host, "Origin: https://"+host)
				head := p.headOf(t, test.up, raw)
				for _, want := range []string{"\r\nHost: " + host + "\r\n", "\r\nOrigin: https://" + host + "\r\n"} {
					if !strings.Contains(head, want) {
						t.Errorf("no %q in:\n%s", want, head)
					}
				}
			}
		})
	}
}

func TestHeaderUp(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	tests := map[string]struct {
		ops  headers.HeaderOps
		sent []string
		has  []string // lines
		not  []string // parts
	}{
		"sets, adds and deletes": {
			ops: headers.HeaderOps{
				Set:    http.Header{"X-Set": {"new"}},
				Add:    http.Header{"X-Add": {"more"}},
				Delete: []string{"X-Delete", "X-All-*"},
			},
			sent: []string{"X-Set: old", "X-Add: some", "X-Delete: 1", "X-All-1: 1", "X-All-2: 2"},
			has:  []string{"X-Set: new", "X-Add: some", "X-Add: more"},
			not:  []string{"old", "X-Delete", "X-All"},
		},
		"replaces": {
			ops: headers.HeaderOps{Replace: map[string][]headers.Replacement{
				"Origin": {{SearchRegexp: "^https://", Replace: "http://"}},
			}},
			sent: []string{"Origin: https://example.com"},
			has:  []string{"Origin: http://example.com"},
		},
		"knows the upstream": {
			ops: headers.HeaderOps{Set: http.Header{
				"Host":   {"{http.reverse_proxy.upstream.hostport}"},
				"X-Host": {"{http.reverse_proxy.upstream.host}"},
				"X-Addr": {"{http.reverse_proxy.upstream.address}"},
				"X-Open": {"{http.reverse_proxy.upstream.requests}"},
			}},
			has: []string{"Host: " + up.Addr, "X-Host: 127.0.0.1", "X-Addr: tcp/" + up.Addr, "X-Open: 1"},
			not: []string{"Host: example.com\r\nConn"},
		},
		"knows the client's request": {
			ops: headers.HeaderOps{Set: http.Header{"X-Was": {"{http.request.host}{http.request.uri}"}}},
			has: []string{"X-Was: example.com/path?query"},
		},
		"cannot break the handshake by setting": {
			ops: headers.HeaderOps{
				Set: http.Header{
					"Upgrade": {"h2c"}, "Connection": {"close"}, "Sec-Websocket-Key": {"x"}, "Sec-Websocket-Version": {"8"},
					"Sec-Websocket-Accept": {"x"}, "Content-Length": {"5"}, "Transfer-Encoding": {"chunked"},
				},
				Add: http.Header{"Sec-Websocket-Key": {"y"}},
			},
			has: []string{
				"Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "Upgrade: websocket",
			},
			not: []string{"h2c", "close", "Key: x", "Key: y", ": 8", "Accept", "Length", "chunked", "Websocket"},
		},
		"cannot break the handshake by deleting": {
			ops: headers.HeaderOps{Delete: []string{"Upgrade", "Connection", "Sec-WebSocket-*"}},
			has: []string{
				"Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "Upgrade: websocket",
			},
		},
		"changes what is offered": {
			ops: headers.HeaderOps{
				Set:    http.Header{"Sec-Websocket-Protocol": {"mqtt"}},
				Delete: []string{"Sec-WebSocket-Extensions"},
			},
			sent: []string{"Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: permessage-deflate"},
			has:  []string{"Sec-WebSocket-Protocol: mqtt"},
			not:  []string{"chat", "Extensions", "Websocket"},
		},
		"deletes User-Agent": {
			ops:  headers.HeaderOps{Delete: []string{"User-Agent"}},
			sent: []string{"User-Agent: Mozilla/5.0"},
			not:  []string{"User-Agent", "Go-http-client"},
		},
		"sets User-Agent": {
			ops: headers.HeaderOps{Set: http.Header{"User-Agent": {"proxy"}}},
			has: []string{"User-Agent: proxy"},
		},
		"has the last word about X-Forwarded": {
			ops: headers.HeaderOps{
				Delete: []string{"X-Forwarded-*"},
				Set:    http.Header{"X-Real-Ip": {"{http.request.remote.host}"}},
			},
			has: []string{"X-Real-Ip: 127.0.0.1"},
			not: []string{"X-Forwarded"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := proxyWithHeaders(t, up.Addr, &headers.Handler{Request: &test.ops})
			head := p.headOf(t, up, testbed.HandshakeRequest("/path?query", "example.com", test.sent...))
			for _, line := range test.has {
				if strings.Count(head, "\r\n"+line+"\r\n") != 1 {
					t.Errorf("the line %q is not there once", line)
				}
			}
			for _, part := range test.not {
				if strings.Contains(head, part) {
					t.Errorf("%q is there", part)
				}
			}
			if t.Failed() {
				t.Log(head)
			}
		})
	}
}

// proxyWithHeaders is a proxy with any header operations, also such as are refused but
// may come by placeholders.
func proxyWithHeaders(t *testing.T, dial string, ops *headers.Handler) *testProxy {
	t.Helper()
	h := &Handler{Upstreams: []*Upstream{{Dial: dial}}}
	provision(t, h)
	if err := ops.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	h.Headers = ops
	return serveWith(t, h, (*httptest.Server).Start)
}

func TestHeaderUpKnowsTheTunnel(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, with(t, up.Addr,
		`{"headers": {"request": {"set": {"X-Tunnel": ["{http.websocket_proxy.tunnel.id}"]}}}}`))
	head := p.headOf(t, up, testbed.HandshakeRequest("/", "example.com"))
	id, _ := p.closedLine()["tunnel"].(string)
	if want := "X-Tunnel: " + id + "\r\n"; id == "" || !strings.Contains(head, want) {
		t.Errorf("no %q in:\n%s", want, head)
	}
}

// What the operator's header operations make of the request is not the fault of
// an upstream.
func TestHeaderUpThatBreaksTheRequest(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	other := testbed.NewUpstream(t, testbed.Echo)
	h := with(t, up.Addr, `{"headers": {"request": {"set": {"Host": ["{http.request.header.X-Host}"]}}},
		"load_balancing": {"selection_policy": {"policy": "first"}}}`)
	h.Upstreams = append(h.Upstreams, &Upstream{Dial: other.Addr})
	p := newProxy(t, h)
	c := testbed.Dial(t, p.Addr)
	line := p.expectRefusal(causeInternal, http.StatusInternalServerError, func() {
		raw := testbed.HandshakeRequest("/", "example.com", "X-Host: xn--\u00e4.example")
		expectAnswer(t, c, raw, http.StatusInternalServerError, notFromNext(nil))
	})
	expectFields(t, line, map[string]any{"upstream": up.Addr})
	expectError(t, line, "idna")
	if n := other.Accepted(); n != 0 {
		t.Errorf("the other upstream got %d connections, want 0", n)
	}
}

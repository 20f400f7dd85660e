package websocketproxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// serveStream has the handler serve a request without body of an HTTP/2 stream,
// as far as that goes without a connection.
func (p *testProxy) serveStream(tb testing.TB, method string, header http.Header) *http.Response {
	tb.Helper()
	r := streamRequest(tb, method, header)
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w.Result()
}

func streamRequest(tb testing.TB, method string, header http.Header) *http.Request {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "https://example.com/", http.NoBody)
	r.Method = method // with CONNECT it would take the URL for an authority
	r.RemoteAddr = "127.0.0.1:1234"
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	for name, values := range header {
		if len(values) > 0 {
			r.Header[name] = values
		}
	}
	return r
}

func TestWrongExtendedConnectIsRefused(t *testing.T) {
	tests := map[string]struct {
		change func(http.Header)
		cause  cause
		status int
		fields map[string]string
	}{
		"no version": {
			func(h http.Header) { h.Del(handshake.FieldVersion) },
			causeMalformed, http.StatusBadRequest,
			map[string]string{handshake.FieldVersion: "13"},
		},
		"differing versions": {
			func(h http.Header) { h.Set(handshake.FieldVersion, "13, 8") },
			causeMalformed, http.StatusBadRequest,
			map[string]string{handshake.FieldVersion: "13"},
		},
		"an older version": {
			func(h http.Header) { h.Set(handshake.FieldVersion, "8") },
			causeVersion, http.StatusBadRequest,
			map[string]string{handshake.FieldVersion: "13"},
		},
		"another origin": {
			func(h http.Header) { h.Set("Origin", "https://evil.example") },
			causeOrigin, http.StatusForbidden, nil,
		},
		"another subprotocol": {
			func(h http.Header) { h.Set(handshake.FieldProtocol, "mqtt") },
			causeSubprotocol, http.StatusBadRequest, nil,
		},
	}
	p := newProxy(t, &Handler{
		Upstreams: []*Upstream{{Dial: testbed.RefusedAddr(t)}},
		Access:    &Access{Origins: []string{"https://example.com"}, Subprotocols: []string{"chat"}},
	})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			header := http.Header{":protocol": {"websocket"}}
			header.Set(handshake.FieldVersion, "13")
			header.Set("Origin", "https://example.com")
			test.change(header)
			p.expectRefusal(test.cause, test.status, func() {
				expectStatus(t, p.serveStream(t, http.MethodConnect, header), test.status,
					notFromNext(map[string]string{"Upgrade": "", "Connection": ""}))
			})
		})
	}
}

// 2xx is how a CONNECT is accepted, so it must not be said in vain.
func TestSuccessInsteadOfATunnelIsAnErrorForAStream(t *testing.T) {
	tests := map[string]struct {
		raw    string
		cause  cause
		status int
		fields map[string]string
	}{
		"200": {
			"HTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: 2\r\n\r\nok", causeUpstreamRefused, http.StatusBadGateway,
			map[string]string{"X-Upstream": "", "Server": "Caddy"},
		},
		"204": {
			"HTTP/1.1 204 No Content\r\n\r\n", causeUpstreamRefused, http.StatusBadGateway, nil,
		},
		"403": {
			"HTTP/1.1 403 Forbidden\r\nX-Upstream: 1\r\nContent-Length: 0\r\n\r\n", causeUpstreamRefused,
			http.StatusForbidden,
			map[string]string{"X-Upstream": "1", "Via": "1.1 Caddy"},
		},
		"426": {
			"HTTP/1.1 426 Upgrade Required\r\nUpgrade: x\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
			causeUpstreamRefused, http.StatusUpgradeRequired,
			map[string]string{"Upgrade": "", "Connection": ""},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.RespondKeepOpen(test.raw))
			p := proxyTo(t, up.Addr)
			header := http.Header{":protocol": {"websocket"}}
			header.Set(handshake.FieldVersion, "13")
			p.expectRefusal(test.cause, test.status, func() {
				expectStatus(t, p.serveStream(t, http.MethodConnect, header), test.status, notFromNext(test.fields))
			})
			up.WaitOpen(t, 0)
		})
	}
}

func TestStreamsRequestOnTheWire(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	header := http.Header{":protocol": {"websocket"}, "Cookie": {"a=1"}}
	header.Set(handshake.FieldVersion, "13")
	header.Set(handshake.FieldProtocol, "chat")
	header.Set(handshake.FieldExtensions, "permessage-deflate")
	wait := testbed.Go(t, func(tb testing.TB) {
		tb.Helper()
		expectStatus(tb, p.serveStream(tb, http.MethodConnect, header), http.StatusForbidden, nil)
	})
	u := up.Next(t)
	key := u.ReadRequest().Header.Get(handshake.FieldKey)
	expectHead(t, u.RawHead(),
		"GET / HTTP/1.1",
		"Host: example.com",
		"Connection: Upgrade",
		"Cookie: a=1",
		"Sec-WebSocket-Extensions: permessage-deflate",
		"Sec-WebSocket-Key: "+key,
		"Sec-WebSocket-Protocol: chat",
		"Sec-WebSocket-Version: 13",
		"Upgrade: websocket",
		"Via: 2.0 Caddy",
		"X-Forwarded-For: 127.0.0.1",
		"X-Forwarded-Host: example.com",
		"X-Forwarded-Proto: https",
	)
	u.Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
	wait()
	u.ExpectClosed()
}

// duplex is the stream of an extended CONNECT, as far as a handler sees it: what
// arrives can be read at once.
type duplex struct {
	*httptest.ResponseRecorder
	sent *io.PipeWriter
}

func (d duplex) Write(p []byte) (int, error) { return d.sent.Write(p) }

func TestExtendedConnectOpensATunnel(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.EchoWith("X-Upstream: 1", "Content-Length: 5", "Sec-WebSocket-Protocol: chat"))
	p := proxyTo(t, up.Addr)
	header := http.Header{":protocol": {"websocket"}}
	header.Set(handshake.FieldVersion, "13")
	header.Set(handshake.FieldProtocol, "chat")
	r := streamRequest(t, http.MethodConnect, header)
	r.ContentLength = -1
	body, toProxy := io.Pipe()
	fromProxy, sent := io.Pipe()
	r.Body = body
	w := duplex{httptest.NewRecorder(), sent}
	wait := testbed.Go(t, func(testing.TB) {
		p.ServeHTTP(w, r)
		_ = sent.Close() // as the server does
	})
	hello := testbed.NewFrame(testbed.Text, "hello")
	if _, err := toProxy.Write(hello.Bytes(true)); err != nil {
		t.Fatal(err)
	}
	echo := make([]byte, len(hello.Bytes(false)))
	if _, err := io.ReadFull(fromProxy, echo); err != nil || string(echo) != string(hello.Bytes(false)) {
		t.Fatalf("got %q, %v, want %q", echo, err, hello.Bytes(false))
	}
	if _, err := toProxy.Write(testbed.NewClose(1000, "").Bytes(true)); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(fromProxy)
	if want := testbed.NewClose(1000, "").Bytes(false); err != nil || string(rest) != string(want) {
		t.Errorf("got %q, %v, want %q", rest, err, want)
	}
	wait()
	expectStatus(t, w.Result(), http.StatusOK, notFromNext(map[string]string{
		"X-Upstream": "1", "Via": "1.1 Caddy", "Upgrade": "", "Connection": "",
		"Content-Length": "",
	}))
	// As spelled here; on the wire all names are in lower case.
	if got := w.Header()[handshake.FieldProtocol]; len(got) != 1 || got[0] != "chat" {
		t.Errorf("%s is %q, want chat", handshake.FieldProtocol, got)
	}
	if got, ok := w.Header()[handshake.FieldAccept]; ok {
		t.Errorf("%s is %q, want none", handshake.FieldAccept, got)
	}
	expectFields(t, p.closedLine(), map[string]any{"reason": "client_closed", "close_code": uint16(1000)})
	up.WaitOpen(t, 0)
}

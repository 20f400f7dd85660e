package websocketproxy

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestForwardedFieldsOfAnUntrustedPeerAreReplaced(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, with(t, up.Addr, `{"trusted_proxies": ["192.0.2.0/24", "::1"]}`))
	expectHead(t, p.headOf(t, up, testbed.HandshakeRequest("/", "example.com",
		"X-Forwarded-For: 198.51.100.7",
		"X-Forwarded-Proto: https",
		"X-Forwarded-Host: public.example",
	)),
		"GET / HTTP/1.1",
		"Host: example.com",
		"Connection: Upgrade",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-WebSocket-Version: 13",
		"Upgrade: websocket",
		"Via: 1.1 Caddy",
		"X-Forwarded-For: 127.0.0.1",
		"X-Forwarded-Host: example.com",
		"X-Forwarded-Proto: http",
	)
}

func TestForwardedFieldsOfATrustedPeerAreAddedTo(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, with(t, up.Addr, `{"trusted_proxies": ["127.0.0.0/8"]}`))
	expectHead(t, p.headOf(t, up, testbed.HandshakeRequest("/", "example.com",
		"X-Forwarded-For: 198.51.100.7, 198.51.100.8",
		"X-Forwarded-For: 198.51.100.9",
		"X-Forwarded-Proto: https",
		"X-Forwarded-Host: first.example",
		"X-Forwarded-Host: public.example",
	)),
		"GET / HTTP/1.1",
		"Host: example.com",
		"Connection: Upgrade",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-WebSocket-Version: 13",
		"Upgrade: websocket",
		"Via: 1.1 Caddy",
		"X-Forwarded-For: 198.51.100.7, 198.51.100.8, 198.51.100.9, 127.0.0.1",
		"X-Forwarded-Host: public.example",
		"X-Forwarded-Proto: https",
	)
}

func TestForwardedFieldsTellTheClientsTLS(t *testing.T) {
	certs := testbed.NewCerts(t)
	up := testbed.NewUpstream(t, nil)
	p := startProxy(t, with(t, up.Addr, `{}`), withTLS(certs.ServerConfig()))
	c := testbed.DialTLS(t, p.Addr, certs.ClientConfig())
	c.Send(testbed.HandshakeRequest("/", "example.com", "X-Forwarded-Proto: http"))
	u := up.Next(t)
	if got := u.ReadRequest().Header.Values("X-Forwarded-Proto"); !slices.Equal(got, []string{"https"}) {
		t.Errorf("X-Forwarded-Proto is %q, want https", got)
	}
	u.Close()
	c.Response()
}

func TestPeerIsTrustedByServerOrHandler(t *testing.T) {
	h := &Handler{TrustedProxies: []string{"203.0.113.9"}}
	if err := h.provisionTrustedProxies(caddyContext(t)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		addr         string
		server, want bool
	}{
		{"192.0.2.1:80", false, false},
		{"192.0.2.1:80", true, true},
		{"203.0.113.9:80", false, true},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/", http.NoBody)
		r.RemoteAddr = test.addr
		vars := map[string]any{caddyhttp.TrustedProxyVarKey: test.server}
		r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars))
		if got := h.peerOf(r).Trusted; got != test.want {
			t.Errorf("%s, trusted by the server: %t: trusted: %t", test.addr, test.server, got)
		}
	}
}

func TestWrongTrustedProxiesAreRefused(t *testing.T) {
	for _, expr := range []string{"", "localhost", "192.0.2.0/33", "private_ranges"} {
		h := &Handler{TrustedProxies: []string{"192.0.2.1", expr}}
		if err := h.provisionTrustedProxies(caddyContext(t)); err == nil {
			t.Errorf("%q is accepted", expr)
		}
	}
}

// A request that came before the client's TLS handshake was complete may have
// been sent by someone who recorded it.
func TestEarlyDataIsMarked(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.com/", http.NoBody)
	h := new(Handler)
	for complete, want := range map[bool]string{true: "", false: "1"} {
		r.TLS = &tls.ConnectionState{HandshakeComplete: complete}
		if got := h.outbound(r, new(clientHandshake)).Header.Get("Early-Data"); got != want {
			t.Errorf("handshake complete: %t: Early-Data is %q, want %q", complete, got, want)
		}
	}
}

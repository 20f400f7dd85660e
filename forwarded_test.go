package websocketproxy

import (
	"context"
	"crypto/tls"
	"maps"
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

// The rest of the rules of reverse_proxy, for what loopback connections do not
// have.
func TestForwardedFieldsAsReverseProxySetsThem(t *testing.T) {
	const xff, xfp, xfh = "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"
	tests := map[string]struct {
		peer    string
		trusted bool // by the server
		tls     bool
		header  http.Header
		want    http.Header
	}{
		"nothing sent": {
			peer: "192.0.2.1:80",
			want: http.Header{xff: {"192.0.2.1"}, xfp: {"http"}, xfh: {"example.com"}},
		},
		"IPv6 with a zone": {
			peer: "[fe80::1%eth0]:80", tls: true,
			want: http.Header{xff: {"fe80::1"}, xfp: {"https"}, xfh: {"example.com"}},
		},
		"trusted by the server": {
			peer: "192.0.2.1:80", trusted: true,
			header: http.Header{xff: {"198.51.100.7"}, xfp: {"http", "https"}, xfh: {"a.example"}},
			want:   http.Header{xff: {"198.51.100.7, 192.0.2.1"}, xfp: {"https"}, xfh: {"a.example"}},
		},
		"trusted by the handler": {
			peer:   "203.0.113.9:80",
			header: http.Header{xff: {"198.51.100.7"}},
			want:   http.Header{xff: {"198.51.100.7, 203.0.113.9"}, xfp: {"http"}, xfh: {"example.com"}},
		},
		"trusted, with empty fields": {
			peer: "192.0.2.1:80", trusted: true,
			header: http.Header{xff: {""}, xfp: {""}, xfh: {""}},
			want:   http.Header{xff: {"192.0.2.1"}, xfp: {"http"}, xfh: {"example.com"}},
		},
		"untrusted unix socket": {
			peer:   "@",
			header: http.Header{xff: {"198.51.100.7"}, xfp: {"https"}, xfh: {"a.example"}},
			want:   http.Header{},
		},
		"trusted unix socket": {
			peer: "@", trusted: true,
			header: http.Header{xff: {"198.51.100.7"}, xfp: {"https"}},
			want:   http.Header{xff: {"198.51.100.7"}, xfp: {"https"}, xfh: {"example.com"}},
		},
		"trusted unix socket, nothing sent": {
			peer: "@", trusted: true,
			want: http.Header{xfp: {"http"}, xfh: {"example.com"}},
		},
		"an address of another form": {
			peer: "somewhere", trusted: true,
			header: http.Header{xff: {"198.51.100.7"}, xfp: {"https"}, xfh: {"a.example"}},
			want:   http.Header{},
		},
		"an address that is not one": {
			peer:   "somewhere:80",
			header: http.Header{xff: {"198.51.100.7"}},
			want:   http.Header{xff: {"somewhere"}, xfp: {"http"}, xfh: {"example.com"}},
		},
		"fields that an earlier handler forbids": {
			peer: "192.0.2.1:80", trusted: true,
			header: http.Header{xff: nil, xfp: nil, xfh: nil},
			want:   http.Header{xff: nil, xfp: nil, xfh: nil},
		},
	}
	h := &Handler{TrustedProxies: []string{"203.0.113.9"}}
	if err := h.provisionTrustedProxies(caddyContext(t)); err != nil {
		t.Fatal(err)
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/", http.NoBody)
			r.RemoteAddr = test.peer
			if test.tls {
				r.TLS = new(tls.ConnectionState)
			}
			vars := map[string]any{caddyhttp.TrustedProxyVarKey: test.trusted}
			r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars))
			got := http.Header{}
			maps.Copy(got, test.header)
			h.setForwarded(got, r)
			if !maps.EqualFunc(got, test.want, slices.Equal) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
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

package websocketproxy

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// An origin has a scheme: what a page that came without TLS says over TLS, anybody on
// the way to it may have written.
func TestSameOriginHasTheScheme(t *testing.T) {
	trusting := &Handler{trustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	for name, test := range map[string]struct {
		tls         bool
		from        string
		proto       []string
		http, https bool // whether these are accepted
	}{
		"plain":                        {from: "198.51.100.1:1", http: true, https: true},
		"TLS":                          {tls: true, from: "198.51.100.1:1", https: true},
		"plain, says anybody":          {from: "198.51.100.1:1", proto: []string{"https"}, http: true, https: true},
		"TLS, plain says anybody":      {tls: true, from: "198.51.100.1:1", proto: []string{"http"}, https: true},
		"TLS, says a trusted proxy":    {from: "192.0.2.1:1", proto: []string{"HTTPS"}, https: true},
		"plain, says a trusted proxy":  {from: "192.0.2.1:1", proto: []string{"http"}, http: true, https: true},
		"plain to a proxy, then TLS":   {tls: true, from: "192.0.2.1:1", proto: []string{"http"}, http: true, https: true},
		"a trusted proxy does not say": {tls: true, from: "192.0.2.1:1", https: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := newAccess(&Access{Origins: []string{"same"}})
			if err != nil {
				t.Fatal(err)
			}
			for scheme, want := range map[string]bool{"http": test.http, "https": test.https} {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
				r.Host, r.RemoteAddr, r.TLS = "example.com", test.from, nil
				if test.tls {
					r.TLS = new(tls.ConnectionState)
				}
				r.Header["X-Forwarded-Proto"] = test.proto
				r.Header.Set("Origin", scheme+"://example.com")
				r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, new(caddyhttp.Server))
				if err := a.origins.Check(r, trusting.isSecure); (err == nil) != want {
					t.Errorf("%s: got %v, want it allowed: %t", scheme, err, want)
				}
			}
		})
	}
}

// Over TLS and HTTP/2, where the whole handler decides.
func TestSameOriginOverTLS(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	certs := testbed.NewCerts(t)
	p := startProxy(t, with(t, up.Addr, `{"access": {"origins": ["same"]}}`), withTLS(certs.ServerConfig()))
	for origin, status := range map[string]int{"http://": http.StatusForbidden, "https://": http.StatusSwitchingProtocols} {
		c := testbed.DialTLS(t, p.Addr, certs.ClientConfig())
		c.Send(testbed.HandshakeRequest("/", c.Host, "Origin: "+origin+c.Host))
		if got := c.Response().StatusCode; got != status {
			t.Errorf("with %s the status is %d, want %d", origin, got, status)
		}
		c.Close()
		header := http.Header{":protocol": {"websocket"}}
		header.Set(handshake.FieldVersion, "13")
		header.Set("Origin", origin+"example.com")
		if origin == "http://" { // the other one would need a connection
			expectStatus(t, p.serveStream(t, http.MethodConnect, header), status, nil)
		}
	}
}

func TestOriginOfTheRequestDecides(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{
		Upstreams: []*Upstream{{Dial: up.Addr}},
		Access:    &Access{Origins: []string{"same", "https://*.example.com"}},
	})
	for _, lines := range [][]string{nil, {"Origin: https://www.example.com"}, {"Origin: http://" + p.Addr}} {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/", lines...)
		c.CloseHandshake(1000)
	}
	for name, lines := range map[string][]string{
		"another":                        {"Origin: https://example.org"},
		"null":                           {"Origin: null"},
		"two":                            {"Origin: http://" + p.Addr, "Origin: http://" + p.Addr},
		"malformed":                      {"Origin: a b"},
		"removed from what is passed on": {"Origin: https://example.org", "Connection: Upgrade, Origin"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			p.expectRefusal(causeOrigin, http.StatusForbidden, func() {
				expectAnswer(t, c, testbed.HandshakeRequest("/", p.Addr, lines...), http.StatusForbidden, notFromNext(nil))
			})
			expectOrdinary(t, c)
		})
	}
	up.WaitAccepted(t, 3)
}

func TestSubprotocolsAreFiltered(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, &Handler{
		Upstreams: []*Upstream{{Dial: up.Addr}},
		Access:    &Access{Subprotocols: []string{"chat", "superchat"}},
	})
	tests := map[string]struct {
		offered []string
		want    []string
	}{
		"none":                   {nil, nil},
		"an empty offer":         {[]string{"Sec-WebSocket-Protocol: ,"}, nil},
		"all":                    {[]string{"Sec-WebSocket-Protocol: superchat, chat"}, []string{"superchat, chat"}},
		"some":                   {[]string{"Sec-WebSocket-Protocol: mqtt,chat ,soap"}, []string{"chat"}},
		"some, in several lines": {[]string{"Sec-WebSocket-Protocol: mqtt, chat", "Sec-WebSocket-Protocol: superchat"}, []string{"chat, superchat"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			c.Send(testbed.HandshakeRequest("/", "example.com", test.offered...))
			u := up.Next(t)
			if got := u.ReadRequest().Header.Values(handshake.FieldProtocol); !slices.Equal(got, test.want) {
				t.Errorf("the upstream is offered %q, want %q", got, test.want)
			}
			u.Close()
			c.Response()
		})
	}
	for name, offered := range map[string]string{
		"no allowed one": "mqtt, soap", "other case": "Chat", "part of a name": "super",
	} {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			line := p.expectRefusal(causeSubprotocol, http.StatusBadRequest, func() {
				expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com", "Sec-WebSocket-Protocol: "+offered),
					http.StatusBadRequest, notFromNext(nil))
			})
			expectError(t, line, "subprotocols")
			expectOrdinary(t, c)
		})
	}
}

func TestWrongAccessListsAreRefused(t *testing.T) {
	for _, origin := range []string{
		"", "*", "example.com", "https://", "https://*", "https://*.", "https://*.*.example.com", "https://a*.example.com",
		"https://example.com/", "https://example.com/chat", "https://user@example.com", "https://example.com?", "Null",
		"//example.com", "https://bücher.example", "https://example.com:port", "https://[::1", "https://**.example.com", "*://example.com",
	} {
		if _, err := newAccess(&Access{Origins: []string{"same", origin}}); err == nil {
			t.Errorf("origin %q is accepted", origin)
		} else if !strings.Contains(err.Error(), "access.origins[1]") {
			t.Errorf("%q does not tell where it is", err)
		}
	}
	for _, name := range []string{"", "a b", "a,b", "ä", "\"chat\""} {
		if _, err := newAccess(&Access{Subprotocols: []string{"chat", name}}); err == nil {
			t.Errorf("subprotocol %q is accepted", name)
		} else if !strings.Contains(err.Error(), "access.subprotocols[1]") {
			t.Errorf("%q does not tell where it is", err)
		}
	}
}

package websocketproxy

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestOriginsAreCompared(t *testing.T) {
	tests := []struct {
		name    string
		allowed []string
		host    string
		sent    []string
		want    bool
	}{
		{"any", nil, "example.com", []string{"https://evil.example"}, true},
		{"any, also if malformed", nil, "example.com", []string{"?", "!"}, true},
		{"none sent", []string{"https://example.com"}, "example.com", nil, true},

		{"the one", []string{"https://example.com"}, "x", []string{"https://example.com"}, true},
		{"one of several", []string{"https://a.example", "https://b.example"}, "x", []string{"https://b.example"}, true},
		{"other case", []string{"HTTPS://Example.com"}, "x", []string{"https://eXample.COM"}, true},
		{"default port is sent", []string{"https://example.com"}, "x", []string{"https://example.com:443"}, true},
		{"default port is listed", []string{"http://example.com:80"}, "x", []string{"http://example.com"}, true},
		{"another port", []string{"https://example.com"}, "x", []string{"https://example.com:8443"}, false},
		{"the port of the other scheme", []string{"https://example.com"}, "x", []string{"https://example.com:80"}, false},
		{"another scheme", []string{"https://example.com"}, "x", []string{"http://example.com"}, false},
		{"another scheme on the same port", []string{"https://example.com"}, "x", []string{"http://example.com:443"}, false},
		{"a longer name", []string{"https://example.com"}, "x", []string{"https://example.com.evil.example"}, false},
		{"a name with the listed end", []string{"https://example.com"}, "x", []string{"https://evilexample.com"}, false},
		{"a subdomain", []string{"https://example.com"}, "x", []string{"https://www.example.com"}, false},
		{"the same host, but not in the list", []string{"https://a.example"}, "b.example", []string{"https://b.example"}, false},
		{"another kind of scheme", []string{"chrome-extension://abcdef"}, "x", []string{"chrome-extension://abcdef"}, true},

		{"IPv6", []string{"http://[::1]:8080"}, "x", []string{"http://[::1]:8080"}, true},
		{"IPv6, another port", []string{"http://[::1]:8080"}, "x", []string{"http://[::1]"}, false},

		{"wildcard", []string{"https://*.example.com"}, "x", []string{"https://a.example.com"}, true},
		{"wildcard, deeper", []string{"https://*.example.com"}, "x", []string{"https://a.b.example.com"}, true},
		{"wildcard, other case", []string{"https://*.Example.com"}, "x", []string{"https://A.EXAMPLE.com"}, true},
		{"wildcard, the domain itself", []string{"https://*.example.com"}, "x", []string{"https://example.com"}, false},
		{"wildcard, a name with the listed end", []string{"https://*.example.com"}, "x", []string{"https://evilexample.com"}, false},
		{"wildcard, another port", []string{"https://*.example.com"}, "x", []string{"https://a.example.com:444"}, false},
		{"wildcard with a port", []string{"https://*.example.com:444"}, "x", []string{"https://a.example.com:444"}, true},
		{"wildcard, another scheme", []string{"https://*.example.com"}, "x", []string{"http://a.example.com"}, false},
		{"wildcard, null", []string{"https://*.example.com"}, "x", []string{"null"}, false},

		{"null is listed", []string{"null"}, "x", []string{"null"}, true},
		{"null is not listed", []string{"https://example.com", "same"}, "null", []string{"null"}, false},
		{"a URL called null", []string{"null"}, "x", []string{"null://x"}, false},
		{"NULL is no origin", []string{"null"}, "x", []string{"NULL"}, false},
		{"null only", []string{"null"}, "x", []string{"https://example.com"}, false},

		{"same", []string{"same"}, "example.com", []string{"https://example.com"}, true},
		{"same over http", []string{"same"}, "example.com", []string{"http://example.com"}, true},
		{"same, other case", []string{"same"}, "EXAMPLE.com", []string{"https://example.COM"}, true},
		{"same with the default port in Host", []string{"same"}, "example.com:443", []string{"https://example.com"}, true},
		{"same with the default port in Origin", []string{"same"}, "example.com", []string{"http://example.com:80"}, true},
		{"same with ports", []string{"same"}, "example.com:8443", []string{"https://example.com:8443"}, true},
		{"same, another port", []string{"same"}, "example.com:8443", []string{"https://example.com"}, false},
		{"same, the port of the other scheme", []string{"same"}, "example.com:80", []string{"https://example.com"}, false},
		{"same, another host", []string{"same"}, "example.com", []string{"https://evil.example"}, false},
		{"same, IPv6", []string{"same"}, "[2001:db8::1]:81", []string{"http://[2001:db8::1]:81"}, true},
		{"same, IPv6 without port", []string{"same"}, "[2001:db8::1]", []string{"http://[2001:db8::1]"}, true},
		{"same, another IPv6", []string{"same"}, "[2001:db8::1]", []string{"http://[2001:db8::2]"}, false},
		{"same, no Host", []string{"same"}, "", []string{"http://example.com"}, false},
		{"same, a scheme without ports", []string{"same"}, "example.com", []string{"app://example.com"}, false},
		{"same or listed", []string{"same", "https://a.example"}, "example.com", []string{"https://a.example"}, true},

		{"files", []string{"file://"}, "x", []string{"file://"}, true},
		{"files are not listed", []string{"null", "same", "https://example.com"}, "", []string{"file://"}, false},
		{"a file", []string{"file://"}, "x", []string{"file:///"}, false},
		{"files of a host", []string{"file://"}, "x", []string{"file://x"}, false},

		{"two fields", []string{"https://example.com"}, "x", []string{"https://example.com", "https://example.com"}, false},
		{"two in a field", []string{"https://example.com"}, "x", []string{"https://example.com https://b.example"}, false},
		{"an empty field", []string{"same", "null"}, "", []string{""}, false},
		{"only a host", []string{"https://example.com", "same"}, "example.com", []string{"example.com"}, false},
		{"a path", []string{"https://example.com"}, "x", []string{"https://example.com/"}, false},
		{"a query", []string{"https://example.com"}, "x", []string{"https://example.com?"}, false},
		{"a fragment", []string{"https://example.com"}, "x", []string{"https://example.com#"}, false},
		{"a user", []string{"https://example.com"}, "x", []string{"https://example.com@example.com"}, false},
		{"an empty user", []string{"https://example.com"}, "x", []string{"https://@example.com"}, false},
		{"an empty port", []string{"https://example.com"}, "x", []string{"https://example.com:"}, false},
		{"no host", []string{"https://example.com", "same"}, "", []string{"https://"}, false},
		{"an asterisk", []string{"https://*.example.com"}, "x", []string{"https://*.example.com"}, false},
		{"an escaped host", []string{"https://example.com"}, "x", []string{"https://example%2ecom"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, err := newAccess(&Access{Origins: test.allowed})
			if err != nil {
				t.Fatal(err)
			}
			r := &http.Request{Host: test.host, Header: http.Header{}}
			if test.sent != nil {
				r.Header["Origin"] = test.sent
			}
			if err := a.checkOrigin(r, false); (err == nil) != test.want {
				t.Errorf("got %v, want it allowed: %t", err, test.want)
			}
		})
	}
}

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
				if err := a.checkOrigin(r, trusting.isSecure(r)); (err == nil) != want {
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
		header.Set(fieldVersion, "13")
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
			if got := u.ReadRequest().Header.Values(fieldProtocol); !slices.Equal(got, test.want) {
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

func FuzzParseOrigin(f *testing.F) {
	for _, s := range []string{
		"null", "https://example.com", "http://[::1]:8080", "https://*.example.com", "https://a@b", "https://example.com:",
		"app://x", "https://example.com#", "http://[fe80::1%25en0]", "https://exa%6dple.com", "HTTPS://ÄB.example:0443",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, ok := parseOrigin(s)
		if !ok {
			if o != (origin{}) {
				t.Errorf("%q is no origin, but gives %+v", s, o)
			}
			return
		}
		if !o.matches(o) {
			t.Errorf("%+v does not match itself", o)
		}
		if o.scheme == "null" && o.host == "" {
			if s != "null" {
				t.Errorf("%q is taken for null", s)
			}
			return
		}
		if o.host == "" || o.scheme == "" || strings.ContainsAny(s, "?#@ *") || strings.Count(s, "/") != 2 {
			t.Errorf("%q is taken for an origin: %+v", s, o)
		}
		// Written out again it means the same.
		u := url.URL{Scheme: o.scheme, Host: o.host}
		if strings.Contains(o.host, ":") {
			u.Host = "[" + o.host + "]"
		}
		if o.port != "" {
			u.Host += ":" + o.port
		}
		if again, ok := parseOrigin(u.String()); !ok || again != o {
			t.Errorf("%q gives %+v, which gives %+v, %t", s, o, again, ok)
		}
	})
}

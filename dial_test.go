package websocketproxy

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// withTransport returns a configuration for up with options of the transport.
func withTransport(tb testing.TB, up string, options map[string]any) *Handler {
	tb.Helper()
	options["protocol"] = "http"
	raw, err := json.Marshal(options)
	if err != nil {
		tb.Fatal(err)
	}
	return &Handler{Upstreams: []*Upstream{{Dial: up}}, TransportRaw: raw}
}

func authority(certs *testbed.Certs) map[string]any {
	return map[string]any{"provider": "file", "pem_files": []string{certs.CAFile}}
}

func TestUnixSocketUpstream(t *testing.T) {
	up := testbed.NewUnixUpstream(t, testbed.Echo)
	p := proxyTo(t, "unix/"+up.Addr)
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/")
	c.Echo("hello")
	if got := tunnelsOf("unix/" + up.Addr); got != 1 {
		t.Errorf("%d tunnels are counted, want 1", got)
	}
	c.CloseHandshake(1000)
	c.Close()
	expectFields(t, p.closedLine(), map[string]any{"upstream": "unix/" + up.Addr})
}

func TestTLSUpstream(t *testing.T) {
	certs := testbed.NewCerts(t)
	named := testbed.NewCerts(t, "upstream.example")
	tests := map[string]struct {
		server *tls.Config
		client map[string]any
	}{
		"an address in the certificate": {
			certs.ServerConfig(), map[string]any{"ca": authority(certs)},
		},
		"a name from the configuration": {
			named.ServerConfig(), map[string]any{"ca": authority(named), "server_name": "upstream.example"},
		},
		"a name with a placeholder": {
			named.ServerConfig(), map[string]any{"ca": authority(named), "server_name": "{http.request.host}"},
		},
		"a client certificate": {
			certs.MutualServerConfig(), map[string]any{
				"ca":                          authority(certs),
				"client_certificate_file":     certs.ClientCertFile,
				"client_certificate_key_file": certs.ClientKeyFile,
			},
		},
		"unchecked": {certs.ServerConfig(), map[string]any{"insecure_skip_verify": true}},
		"with the older option": {
			certs.ServerConfig(), map[string]any{"root_ca_pem_files": []string{certs.CAFile}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			// A server that would rather speak HTTP/2.
			test.server.NextProtos = []string{"h2", "http/1.1"}
			up := testbed.NewTLSUpstream(t, test.server, nil)
			p := newProxy(t, withTransport(t, up.Addr, map[string]any{"tls": test.client}))
			c := testbed.Dial(t, p.Addr)
			c.Host = "upstream.example"
			c.Send(testbed.HandshakeRequest("/", c.Host))
			u := up.Next(t)
			u.AcceptHandshake()
			c.Response()
			secured, ok := u.NetConn().(*tls.Conn)
			if !ok {
				t.Fatalf("the upstream has a %T", u.NetConn())
			}
			if got := secured.ConnectionState().NegotiatedProtocol; got != "" {
				t.Errorf("they agreed on %q, want nothing, which is HTTP/1.1", got)
			}
			u.WriteFrame(testbed.NewFrame(testbed.Text, "hello"))
			c.ExpectFrame(testbed.Text, "hello")
			c.WriteFrame(testbed.NewFrame(testbed.Text, "hello too"))
			u.ExpectFrame(testbed.Text, "hello too")
			c.Close()
			u.ExpectEOF()
			u.Close()
		})
	}
}

func TestServerNameIsThatOfEachRequest(t *testing.T) {
	certs := testbed.NewCerts(t, "a.example", "b.example")
	up := testbed.NewTLSUpstream(t, certs.ServerConfig(), nil)
	p := newProxy(t, withTransport(t, up.Addr, map[string]any{"tls": map[string]any{
		"ca": authority(certs), "server_name": "{http.request.host}",
	}}))
	for _, name := range []string{"a.example", "b.example"} {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", name))
		u := up.Next(t)
		secured, ok := u.NetConn().(*tls.Conn)
		if !ok {
			t.Fatalf("the upstream has a %T", u.NetConn())
		}
		if got := secured.ConnectionState().ServerName; got != name {
			t.Errorf("the server name is %q, want %q", got, name)
		}
		u.Close()
		c.Response()
	}
}

func TestTLSUpstreamThatFails(t *testing.T) {
	certs, others := testbed.NewCerts(t), testbed.NewCerts(t)
	named := testbed.NewCerts(t, "upstream.example")
	tests := map[string]struct {
		server *tls.Config // nil: no TLS
		client map[string]any
		cause  cause
		says   string
	}{
		"a certificate of another authority": {
			others.ServerConfig(), map[string]any{"ca": authority(certs)}, causeTLSFailed, "certificate",
		},
		"a certificate for another name": {
			named.ServerConfig(), map[string]any{"ca": authority(named)}, causeTLSFailed, "certificate",
		},
		"no TLS": {
			nil, map[string]any{"ca": authority(certs)}, causeTLSFailed, "TLS",
		},
		// In TLS 1.3 the client's handshake is over before the server has seen
		// its certificate.
		"no client certificate": {
			certs.MutualServerConfig(), map[string]any{"ca": authority(certs)}, causeClosed, "certificate",
		},
		"a client certificate of another authority": {
			certs.MutualServerConfig(), map[string]any{
				"ca":                          authority(certs),
				"client_certificate_file":     others.ClientCertFile,
				"client_certificate_key_file": others.ClientKeyFile,
			}, causeClosed, "",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			// What is not TLS answers to a ClientHello as a web server does.
			up := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
				tb.Helper()
				c.Tolerate()
				c.Send("HTTP/1.1 400 Bad Request\r\n\r\n")
				c.Drain()
			})
			if test.server != nil {
				up = testbed.NewTLSUpstream(t, test.server, testbed.Echo)
			}
			p := newProxy(t, withTransport(t, up.Addr, map[string]any{"tls": test.client}))
			p.expectGateway(t, up, test.cause, http.StatusBadGateway, test.says)
		})
	}
}

func TestTLSExceptPorts(t *testing.T) {
	certs := testbed.NewCerts(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	_, port, _ := cutLast(up.Addr, ":")
	p := newProxy(t, withTransport(t, up.Addr, map[string]any{
		"tls": map[string]any{"ca": authority(certs), "except_ports": []string{port}},
	}))
	p.accepted(t)
}

// The time of the TLS handshake is part of dialing: another upstream is tried.
func TestTLSHandshakeTimeout(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.BlackHole)
	p := newProxy(t, withTransport(t, up.Addr, map[string]any{
		"tls": map[string]any{"handshake_timeout": 50_000_000},
	}))
	c := testbed.Dial(t, p.Addr)
	line := p.expectRefusal(causeDialTimeout, http.StatusGatewayTimeout, func() {
		expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusGatewayTimeout, notFromNext(nil))
	})
	expectError(t, line, "TLS")
	expectFields(t, line, map[string]any{"upstream": up.Addr})
	expectOrdinary(t, c)
}

// An upstream that does not even speak TLS is not reached, whatever limits the time for it.
func TestTimesThatIncludeTLS(t *testing.T) {
	for name, test := range map[string]struct {
		timeouts  Timeouts
		transport map[string]any
	}{
		"of the handshake": {Timeouts{Handshake: 50_000_000}, map[string]any{"tls": map[string]any{}}},
		"of dialing":       {Timeouts{}, map[string]any{"tls": map[string]any{}, "dial_timeout": 50_000_000}},
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.BlackHole)
			h := withTransport(t, up.Addr, test.transport)
			h.Timeouts = &test.timeouts
			p := newProxy(t, h)
			for range settings.DefaultMaxFails {
				c := testbed.Dial(t, p.Addr)
				p.expectRefusal(causeDialTimeout, http.StatusGatewayTimeout, func() {
					expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusGatewayTimeout, notFromNext(nil))
				})
			}
			if !failingAddresses()[up.Addr] {
				t.Error("the upstream is not failing")
			}
		})
	}
}

func TestClientThatGoesDuringTheTLSHandshake(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, withTransport(t, up.Addr, map[string]any{"tls": map[string]any{}}))
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	u := up.Next(t)
	p.expectRefusal(causeClientGone, statusClientClosed, func() {
		c.Close()
		u.Drain()
	})
}

func TestProxyProtocol(t *testing.T) {
	v2 := "\r\n\r\n\x00\r\nQUIT\n" + // the signature
		"\x21\x11" + string(binary.BigEndian.AppendUint16(nil, 12)) + // PROXY, TCP over IPv4
		"\x7f\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"
	for version, want := range map[string]string{
		"v1": "PROXY TCP4 127.0.0.1 0.0.0.0 0 0\r\n",
		"v2": v2,
	} {
		t.Run(version, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			p := newProxy(t, withTransport(t, up.Addr, map[string]any{"proxy_protocol": version}))
			c := testbed.Dial(t, p.Addr)
			c.Send(testbed.HandshakeRequest("/", "example.com"))
			u := up.Next(t)
			u.Expect(want)
			u.AcceptHandshake()
			c.Response()
			u.WriteFrame(testbed.NewFrame(testbed.Text, "hello"))
			c.ExpectFrame(testbed.Text, "hello")
		})
	}
}

func TestAddressWithPlaceholders(t *testing.T) {
	up, other := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, "{http.request.header.X-Backend}")
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/", "X-Backend: "+up.Addr)
	c.Echo("hello")
	for range 2 {
		testbed.Dial(t, p.Addr).Handshake("/", "X-Backend: "+other.Addr)
	}
	if got, got2 := tunnelsOf(up.Addr), tunnelsOf(other.Addr); got != 1 || got2 != 2 {
		t.Errorf("%d and %d tunnels are counted, want 1 and 2", got, got2)
	}
	c.CloseHandshake(1000)
	c.Close()
	expectFields(t, p.closedLine(), map[string]any{"upstream": up.Addr})

	refused := testbed.RefusedAddr(t)
	c = testbed.Dial(t, p.Addr)
	line := p.expectRefusal(causeDialFailed, http.StatusBadGateway, func() {
		expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com", "X-Backend: "+refused), http.StatusBadGateway, nil)
	})
	expectFields(t, line, map[string]any{"upstream": refused})
}

func TestPlaceholdersThatBecomeNoAddress(t *testing.T) {
	p := proxyTo(t, testbed.RefusedAddr(t), "{http.request.header.X-Backend}")
	for _, backend := range []string{
		"", "example.com", "example.com:", ":x", "example.com:80-90", "example.com:99999", "a:b:c", "udp/x:y", "udp/localhost:1",
		"ws://localhost:1", "{test.other}:1-2",
	} {
		t.Run(backend, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			line := p.expectRefusal(causeBadAddress, http.StatusBadGateway, func() {
				raw := testbed.HandshakeRequest("/", "example.com", "X-Backend: "+backend)
				expectAnswer(t, c, raw, http.StatusBadGateway, notFromNext(nil))
			})
			expectError(t, line, "{http.request.header.X-Backend}")
			expectOrdinary(t, c)
		})
	}
}

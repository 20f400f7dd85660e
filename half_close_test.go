package websocketproxy

import (
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// sockets are the kinds of connection to upstreams.
var sockets = map[string]func(t *testing.T, certs *testbed.Certs) (*testbed.Upstream, *Handler){
	"tcp": func(t *testing.T, _ *testbed.Certs) (*testbed.Upstream, *Handler) {
		t.Helper()
		up := testbed.NewUpstream(t, nil)
		return up, &Handler{Upstreams: upstreams(up.Addr)}
	},
	"unix": func(t *testing.T, _ *testbed.Certs) (*testbed.Upstream, *Handler) {
		t.Helper()
		up := testbed.NewUnixUpstream(t, nil)
		return up, &Handler{Upstreams: upstreams("unix/" + up.Addr)}
	},
	"tls": func(t *testing.T, certs *testbed.Certs) (*testbed.Upstream, *Handler) {
		t.Helper()
		up := testbed.NewTLSUpstream(t, certs.ServerConfig(), nil)
		return up, &Handler{
			Upstreams:    upstreams(up.Addr),
			TransportRaw: json.RawMessage(`{"protocol": "http", "tls": {"insecure_skip_verify": true}}`),
		}
	},
}

// overSockets runs a test with a tunnel over each pair of kinds of connection.
func overSockets(t *testing.T, test func(p *testProxy, c *testbed.Client, u *testbed.Conn)) {
	t.Helper()
	certs := testbed.NewCerts(t)
	for _, client := range []string{"tcp", "tls"} {
		for kind, listen := range sockets {
			t.Run(client+" to "+kind, func(t *testing.T) {
				up, h := listen(t, certs)
				p, c := dialProxy(t, h, client, certs)
				test(p, c, accept(t, up, c))
			})
		}
	}
}

// accept opens a tunnel and returns the upstream's end.
func accept(t *testing.T, up *testbed.Upstream, c *testbed.Client) *testbed.Conn {
	t.Helper()
	wait := testbed.Go(t, func(testing.TB) { c.Handshake("/") })
	u := up.Next(t)
	u.AcceptHandshake()
	wait()
	return u
}

func dialProxy(t *testing.T, h *Handler, kind string, certs *testbed.Certs) (*testProxy, *testbed.Client) {
	t.Helper()
	if kind == "tls" {
		p := startProxy(t, h, withTLS(certs.ServerConfig()))
		return p, testbed.DialTLS(t, p.Addr, certs.ClientConfig())
	}
	p := startProxy(t, h, (*httptest.Server).Start)
	return p, testbed.Dial(t, p.Addr)
}

func TestClientMayEndItsStreamFirst(t *testing.T) {
	overSockets(t, func(p *testProxy, c *testbed.Client, u *testbed.Conn) {
		c.WriteFrame(testbed.NewFrame(testbed.Text, "that is all"))
		c.CloseWrite()
		u.ExpectFrame(testbed.Text, "that is all")
		u.ExpectEOF()
		for range 3 {
			u.WriteFrame(testbed.NewFrame(testbed.Text, "answer"))
			c.ExpectFrame(testbed.Text, "answer")
		}
		u.Close()
		c.ExpectEOF()
		expectFields(p.tb, p.closedLine(), map[string]any{"reason": "client_closed", "messages_out": uint64(3)})
	})
}

func TestUpstreamMayEndItsStreamFirst(t *testing.T) {
	overSockets(t, func(p *testProxy, c *testbed.Client, u *testbed.Conn) {
		u.WriteFrame(testbed.NewFrame(testbed.Text, "that is all"))
		u.CloseWrite()
		c.ExpectFrame(testbed.Text, "that is all")
		c.ExpectEOF()
		for range 3 {
			c.WriteFrame(testbed.NewFrame(testbed.Text, "answer"))
			u.ExpectFrame(testbed.Text, "answer")
		}
		c.Close()
		u.ExpectEOF()
		expectFields(p.tb, p.closedLine(), map[string]any{"reason": "upstream_closed", "messages_in": uint64(3)})
	})
}

func TestPeersThatCloseAtOnceLoseNothing(t *testing.T) {
	overSockets(t, func(p *testProxy, c *testbed.Client, u *testbed.Conn) {
		last := testbed.NewFrame(testbed.Binary, string(make([]byte, 100_000)))
		u.WriteFrame(last)
		u.WriteFrame(testbed.NewClose(1001, "restart"))
		u.Close()
		c.ExpectFrame(last.Opcode, string(last.Payload))
		if got := c.ExpectClose(1001); got != "restart" {
			p.tb.Errorf("the Close says %q, want restart", got)
		}
		c.ExpectEOF()
		c.Close()
		expectFields(p.tb, p.closedLine(), map[string]any{
			"reason":     "upstream_closed",
			"close_code": uint16(1001),
			"close_from": "upstream",
		})
	})
}

func TestHalfCloseTimeout(t *testing.T) {
	p, c, u := openTunnel(t, &Timeouts{HalfClose: 1})
	c.CloseWrite()
	u.ExpectEOF()
	c.ExpectClose(1001)
	c.ExpectEOF()
	u.ExpectClosed()
	expectFields(t, p.closedLine(), map[string]any{"reason": "half_close_timeout", "closed_by": "proxy"})
}

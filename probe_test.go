package websocketproxy

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// soon is the timeout of probes that have to run into it.
const soon = caddy.Duration(100 * time.Millisecond)

// checked returns a handler for an upstream with a check.
func checked(dial string, a ActiveHealthChecks) *Handler {
	return &Handler{Upstreams: upstreams(dial), HealthChecks: &HealthChecks{Active: &a}}
}

// probed returns what a probe of the only upstream of h finds out.
func probed(t *testing.T, h *Handler) error {
	t.Helper()
	provision(t, h)
	return h.check.probe(h.pool.Fixed[0])(context.Background())
}

func TestHTTPCheckJudgesTheAnswer(t *testing.T) {
	tests := map[string]struct {
		script   testbed.Script
		settings ActiveHealthChecks
		want     string
	}{
		"200":                  {testbed.Answer("200 OK", ""), ActiveHealthChecks{}, ""},
		"204":                  {testbed.Answer("204 No Content", ""), ActiveHealthChecks{}, ""},
		"no status of 2xx":     {testbed.Answer("301 Moved", ""), ActiveHealthChecks{}, "status 301"},
		"an error":             {testbed.Answer("503 Service Unavailable", ""), ActiveHealthChecks{}, "status 503"},
		"the status":           {testbed.Answer("418 Teapot", ""), ActiveHealthChecks{ExpectStatus: 418}, ""},
		"another status":       {testbed.Answer("204 No Content", ""), ActiveHealthChecks{ExpectStatus: 200}, "status 204"},
		"the class":            {testbed.Answer("404 Not Found", ""), ActiveHealthChecks{ExpectStatus: 4}, ""},
		"another class":        {testbed.Answer("200 OK", ""), ActiveHealthChecks{ExpectStatus: 4}, "status 200"},
		"the body":             {testbed.Answer("200 OK", "it is fine"), ActiveHealthChecks{ExpectBody: "f[a-z]ne$"}, ""},
		"too late in the body": {testbed.Answer("200 OK", "it is fine"), ActiveHealthChecks{ExpectBody: "fine", MaxSize: 8}, "the body is not"},
		"all of the body":      {testbed.Answer("200 OK", strings.Repeat("x", 2<<20)+"fine"), ActiveHealthChecks{ExpectBody: "fine", MaxSize: -1}, ""},
		"no answer":            {testbed.Silent, ActiveHealthChecks{Timeout: soon}, "waiting for the answer: took longer than 100ms"},
		"a redirect":           {redirect, ActiveHealthChecks{FollowRedirects: true}, ""},
		"one not followed":     {redirect, ActiveHealthChecks{}, "status 302"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, test.script)
			test.settings.Kind = "http"
			testbed.ExpectProblem(t, probed(t, checked(up.Addr, test.settings)), test.want)
		})
	}
}

// redirect is an upstream that answers well elsewhere.
func redirect(tb testing.TB, c *testbed.Conn) {
	if c.ReadRequest().URL.Path == "/there" {
		c.Send("HTTP/1.1 200 OK\r\n\r\n")
		return
	}
	c.Send("HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n")
}

func TestRequestOfAnHTTPCheck(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	h := checked(up.Addr, ActiveHealthChecks{
		URI:    "/a%2Fb?c=d",
		Method: "PUT",
		Body:   `{"time": 1}`,
		Headers: http.Header{
			"host":     {"{http.reverse_proxy.active.target_upstream}.test"},
			"x-target": {"{http.reverse_proxy.upstream.hostport}", "{unknown}"},
		},
	})
	testbed.Go(t, func(tb testing.TB) {
		c := up.Next(tb)
		r := c.ReadRequest()
		want := "PUT /a%2Fb?c=d HTTP/1.1\r\nHost: " + up.Addr + ".test\r\nUser-Agent: Go-http-client/1.1\r\n" +
			"Connection: close\r\nContent-Length: 11\r\nX-Target: " + up.Addr + "\r\nX-Target: {unknown}\r\n\r\n"
		if got := c.RawHead(); got != want {
			tb.Errorf("the request is\n%q, want\n%q", got, want)
		}
		if body := make([]byte, 11); r.ContentLength != 11 {
			tb.Errorf("the body has %d bytes, want %d", r.ContentLength, len(body))
		}
		c.Expect(`{"time": 1}`)
		c.Send("HTTP/1.1 200 OK\r\n\r\n")
		c.Close()
	})
	testbed.ExpectProblem(t, probed(t, h), "")
}

func TestHandshakeOfAWebSocketCheck(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	h := checked(up.Addr, ActiveHealthChecks{Kind: "websocket", URI: "/ws?check=1", Headers: http.Header{
		"Origin":                 {"https://example.com"},
		"sec-websocket-protocol": {"chat.v2, chat.v1"},
		"Upgrade":                {"of the office"},
	}})
	testbed.Go(t, func(tb testing.TB) {
		c := up.Next(tb)
		r := c.AcceptHandshake("Sec-WebSocket-Protocol: chat.v1")
		for field, want := range map[string]string{
			"Origin": "https://example.com", "Sec-WebSocket-Protocol": "chat.v2, chat.v1", "Upgrade": "websocket",
		} {
			if got := strings.Join(r.Header.Values(field), "|"); got != want {
				tb.Errorf("%s is %q, want %q", field, got, want)
			}
		}
		if r.Host != up.Addr || r.RequestURI != "/ws?check=1" {
			tb.Errorf("the upstream is asked for %s at %s", r.RequestURI, r.Host)
		}
		if !strings.Contains(c.RawHead(), "\r\nSec-WebSocket-Protocol: ") {
			tb.Errorf("fields are not spelled as in RFC 6455:\n%s", c.RawHead())
		}
		c.WriteFrame(testbed.NewFrame(testbed.Pong, string(c.ReadFrame().Payload)))
		c.ExpectClose(1000)
		c.Close()
	})
	testbed.ExpectProblem(t, probed(t, h), "")
}

func TestChecksOfAnotherAddress(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Answer("200 OK", ""))
	other := testbed.RefusedAddr(t)
	port := int(portOf(t, up.Addr))
	tests := map[string]ActiveHealthChecks{
		"another port":     {Kind: "http", Port: port},
		"another upstream": {Kind: "http", Upstream: up.Addr},
	}
	for name, settings := range tests {
		t.Run(name, func(t *testing.T) {
			testbed.ExpectProblem(t, probed(t, checked(other, settings)), "")
		})
	}
}

// These concern the connection, so they are the same for all kinds.
func TestChecksDialAsTunnelsDo(t *testing.T) {
	certs, others := testbed.NewCerts(t), testbed.NewCerts(t)
	withCA := func(c *testbed.Certs) map[string]any {
		return map[string]any{"tls": map[string]any{"ca": authority(c)}}
	}
	scripts := map[string]testbed.Script{
		"http":      testbed.Answer("200 OK", ""),
		"websocket": testbed.Echo,
		"tcp":       func(_ testing.TB, c *testbed.Conn) { c.Tolerate(); c.Drain() },
	}
	for kind, script := range scripts {
		proxied := func(tb testing.TB, c *testbed.Conn) {
			c.Expect("PROXY TCP4 127.0.0.1 0.0.0.0 0 0\r\n")
			script(tb, c)
		}
		tests := map[string]struct {
			dial      func(t *testing.T) string
			transport map[string]any
			timeout   caddy.Duration
			want      string
		}{
			"a unix socket": {func(t *testing.T) string {
				return "unix/" + testbed.NewUnixUpstream(t, script).Addr
			}, nil, 0, ""},
			"no such socket": {func(*testing.T) string { return "unix//nowhere/chat.sock" }, nil, 0, "dialing: dial unix"},
			"TLS": {func(t *testing.T) string {
				return testbed.NewTLSUpstream(t, certs.ServerConfig(), script).Addr
			}, withCA(certs), 0, ""},
			"TLS of another authority": {func(t *testing.T) string {
				return testbed.NewTLSUpstream(t, certs.ServerConfig(), script).Addr
			}, withCA(others), 0, "certificate signed by unknown authority"},
			"no TLS": {func(t *testing.T) string {
				return testbed.NewUpstream(t, func(_ testing.TB, c *testbed.Conn) {
					c.Tolerate()
					c.Send("HTTP/1.1 400 Bad Request\r\n\r\n")
					c.Drain()
				}).Addr
			}, withCA(certs), 0, "TLS"},
			"TLS that hangs": {func(t *testing.T) string {
				return testbed.NewUpstream(t, testbed.BlackHole).Addr
			}, withCA(certs), soon, "dialing: took longer than 100ms"},
			"the PROXY protocol": {func(t *testing.T) string {
				return testbed.NewUpstream(t, proxied).Addr
			}, map[string]any{"proxy_protocol": "v1"}, 0, ""},
		}
		for name, test := range tests {
			t.Run(kind+", "+name, func(t *testing.T) {
				h := withTransport(t, test.dial(t), map[string]any{})
				if test.transport != nil {
					h = withTransport(t, h.Upstreams[0].Dial, test.transport)
				}
				h.HealthChecks = &HealthChecks{Active: &ActiveHealthChecks{Kind: kind, Timeout: test.timeout}}
				testbed.ExpectProblem(t, probed(t, h), test.want)
			})
		}
	}
}

func portOf(tb testing.TB, addr string) uint16 {
	tb.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		tb.Fatal(err)
	}
	return uint16(n)
}

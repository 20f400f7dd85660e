package websocketproxy

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// expectPositive expects durations in a log line.
func expectPositive(t *testing.T, line map[string]any, names ...string) {
	t.Helper()
	for _, name := range names {
		if d, ok := line[name].(time.Duration); !ok || d <= 0 || d > time.Minute {
			t.Errorf("%s is %v", name, line[name])
		}
	}
}

// expectWithout expects that a log line does not have some fields.
func expectWithout(t *testing.T, line map[string]any, names ...string) {
	t.Helper()
	for _, name := range names {
		if value, ok := line[name]; ok {
			t.Errorf("the line has %s %v", name, value)
		}
	}
}

func TestLinesTellOfTheHandshake(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	h := with(t, testbed.RefusedAddr(t), `{"name": "chat", "load_balancing": {"selection_policy": {"policy": "first"}}}`)
	h.Upstreams = append(h.Upstreams, &Upstream{Dial: up.Addr})
	h.Headers = &headers.Handler{Request: &headers.HeaderOps{Set: http.Header{"Request": {"{http.request.uuid}"}}}}
	p := newProxy(t, h)
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/a%20room?token=secret")
	for _, message := range []string{"tunnel opened", "tunnel closed"} {
		if message == "tunnel closed" {
			c.CloseHandshake(1000)
		}
		line := p.line(message)
		expectFields(t, line, map[string]any{
			"handler": "chat", "protocol": "h1", "host": c.Host, "uri": "/a%20room", "retries": uint16(1), "upstream": up.Addr,
		})
		expectPositive(t, line, "handshake_time", "upstream_handshake_time")
		expectWithout(t, line, "queue_time")
		if id, _ := line["request_id"].(string); len(id) != len("00000000-0000-0000-0000-000000000000") {
			t.Errorf("request_id is %v", line["request_id"])
		}
	}
}

func TestLineOfATunnelSaysNothingInVain(t *testing.T) {
	p, c, u := openTunnel(t, nil)
	c.Close()
	u.ExpectEOF()
	u.Close()
	expectWithout(t, p.closedLine(), "handler", "queue_time", "retries", "request_id")
}

func TestLineOfATunnelThatHasWaited(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, narrow(up.Addr))
	first, second := testbed.Dial(t, p.Addr), testbed.Dial(t, p.Addr)
	first.Handshake("/first")
	second.Send(testbed.HandshakeRequest("/second", second.Host))
	eventually(t, "it waits", func() bool { return queued(p.handler) == 1 })
	first.CloseHandshake(1000)
	second.Response()
	second.CloseHandshake(1000)
	eventually(t, "both have ended", func() bool { return p.logs.FilterMessage("tunnel closed").Len() == 2 })
	line := p.logs.FilterMessage("tunnel closed").All()[1].ContextMap()
	expectFields(t, line, map[string]any{"uri": "/second"})
	expectPositive(t, line, "queue_time")
}

func TestLineOfARefusalTellsWhere(t *testing.T) {
	h := with(t, testbed.RefusedAddr(t), `{"name": "chat", "access": {"origins": ["same"]}}`)
	p := newProxy(t, h)
	c := testbed.Dial(t, p.Addr)
	long := "/" + strings.Repeat("x", 2000)
	c.Send("GET " + long + "?token=secret HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://other.example\r\n\r\n")
	c.Response()
	line := p.line("handshake refused")
	expectFields(t, line, map[string]any{
		"cause": "origin", "handler": "chat", "protocol": "h1", "host": "example.com", "uri": long[:253] + "…",
	})
	expectWithout(t, line, "upstream_handshake_time", "queue_time", "retries", "request_id")
}

func TestWhatTunnelsAskedForIsKeptOnce(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{Upstreams: upstreams(up.Addr)})
	for range 2 {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/same")
		defer c.Close()
	}
	eventually(t, "both are open", func() bool { return process.live.Count() == 2 })
	all := process.live.Collect(nil)
	if len(all) != 2 || all[0].Asked != all[1].Asked || all[0].Asked.Target().Path != "/same" {
		t.Errorf("the tunnels are %v", all)
	}
}

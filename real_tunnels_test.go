package websocketproxy

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

func TestPingsInRealTunnels(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("takes fourteen seconds; set LONG to run it")
	}
	certs := testbed.NewCerts(t)
	for _, kind := range []string{"plain", "tls"} {
		t.Run(kind, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			p, c := dialProxy(t, &Handler{
				Upstreams: upstreams(up.Addr),
				Keepalive: &Keepalive{PingInterval: caddy.Duration(time.Second)},
			}, kind, certs)
			u := accept(t, up, c)
			for _, end := range []*testbed.Conn{c.Conn, u} {
				ping := end.ReadFrame()
				if ping.Opcode != testbed.Ping || len(ping.Payload) != 12 || ping.Masked != (end == u) {
					t.Fatalf("got %v, want a ping of ours", ping)
				}
				end.WriteFrame(testbed.NewFrame(testbed.Pong, string(ping.Payload)))
			}
			// Both were silent, but one may be pinged a round before the other.
			for _, end := range []*testbed.Conn{c.Conn, u} {
				end.WriteFrame(testbed.NewFrame(testbed.Text, "here I am"))
			}
			for _, end := range []*testbed.Conn{c.Conn, u} {
				f := end.ReadFrame()
				for ; f.Opcode == testbed.Ping; f = end.ReadFrame() {
					end.WriteFrame(testbed.NewFrame(testbed.Pong, string(f.Payload)))
				}
				if got := string(f.Payload); f.Opcode != testbed.Text || got != "here I am" {
					t.Errorf("got %v, want the other's word", f)
				}
			}
			// From here on only the client reacts.
			answered := testbed.Go(t, func(testing.TB) {
				for f := c.ReadFrame(); f.Opcode != testbed.Close; f = c.ReadFrame() {
					c.WriteFrame(testbed.NewFrame(testbed.Pong, string(f.Payload)))
				}
				c.WriteFrame(testbed.NewClose(1001, ""))
			})
			for f := u.ReadFrame(); f.Opcode != testbed.Close; f = u.ReadFrame() {
				if f.Opcode != testbed.Ping {
					t.Errorf("got %v, want pings only", f)
				}
			}
			answered()
			c.Close()
			u.Close()
			expectFields(t, p.closedLine(), map[string]any{
				"reason": "ping_timeout", "closed_by": "upstream",
				"messages_in": uint64(1), "messages_out": uint64(1),
				"bytes_in": uint64(2 + 4 + 9 + 2 + 4 + 2), "bytes_out": uint64(2 + 9),
			})
		})
	}
}

func TestTooBigAMessageInARealTunnel(t *testing.T) {
	t.Run("of the client", func(t *testing.T) {
		p, c, u := openLimited(t, &Limits{MaxMessageSize: 1000})
		c.WriteFrame(testbed.NewFrame(testbed.Text, "hello"))
		u.ExpectFrame(testbed.Text, "hello")
		sent := testbed.Go(t, func(testing.TB) {
			_, _ = c.Write(testbed.NewFrame(testbed.Binary, strings.Repeat("x", 8<<20)).Bytes(true))
		})
		c.ExpectClose(1009)
		u.ExpectClose(1001)
		sent()
		c.WriteFrame(testbed.NewClose(1009, ""))
		c.ExpectEOF()
		u.ExpectEOF()
		c.Close()
		u.Close()
		expectFields(t, p.closedLine(), map[string]any{
			"reason": "message_too_big", "closed_by": "client", "messages_in": uint64(1),
			"close_code": uint16(1009), "close_from": "proxy",
		})
	})
	t.Run("of the upstream", func(t *testing.T) {
		p, c, u := openLimited(t, &Limits{MaxMessageSize: 1000})
		sent := testbed.Go(t, func(testing.TB) {
			_, _ = u.Write(testbed.NewFrame(testbed.Binary, strings.Repeat("x", 8<<20)).Bytes(false))
		})
		c.ExpectClose(1001)
		c.WriteFrame(testbed.NewClose(1001, ""))
		u.ExpectClose(1009)
		sent()
		u.Close()
		c.ExpectEOF()
		c.Close()
		expectFields(t, p.closedLine(), map[string]any{"reason": "message_too_big", "closed_by": "upstream"})
	})
}

// openLimited is openTunnel with limits.
func openLimited(t *testing.T, limits *Limits) (*testProxy, *testbed.Client, *testbed.Conn) {
	t.Helper()
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, &Handler{Upstreams: upstreams(up.Addr), Limits: limits})
	c := testbed.Dial(t, p.Addr)
	return p, c, accept(t, up, c)
}

func TestRateOfRealTunnels(t *testing.T) {
	certs := testbed.NewCerts(t)
	for _, kind := range []string{"plain", "tls"} {
		t.Run(kind, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			p, c := dialProxy(t, &Handler{
				Upstreams: upstreams(up.Addr),
				Limits:    &Limits{MaxMessageRate: 50, MessageBurst: 1},
			}, kind, certs)
			u := accept(t, up, c)
			began := time.Now()
			for i := range 11 {
				c.WriteFrame(testbed.NewFrame(testbed.Text, fmt.Sprint(i)))
			}
			for i := range 11 {
				u.ExpectFrame(testbed.Text, fmt.Sprint(i))
			}
			if took := time.Since(began); took < 200*time.Millisecond {
				t.Errorf("11 messages took %v at 50 per second", took)
			}
			c.Close()
			u.ExpectEOF()
			u.Close()
			expectFields(t, p.closedLine(), map[string]any{"messages_in": uint64(11)})
		})
	}
	t.Run("close", func(t *testing.T) {
		p, c, u := openLimited(t, &Limits{MaxMessageRate: 1, MessageBurst: 2, OnMessageRate: "close"})
		for range 3 {
			c.WriteFrame(testbed.NewFrame(testbed.Text, "spam"))
		}
		u.ExpectFrame(testbed.Text, "spam")
		u.ExpectFrame(testbed.Text, "spam")
		u.ExpectClose(1001)
		c.ExpectClose(1008)
		c.WriteFrame(testbed.NewClose(1008, ""))
		c.Close()
		u.Close()
		expectFields(t, p.closedLine(), map[string]any{
			"reason": "rate_limited", "closed_by": "client", "close_code": uint16(1008), "close_from": "proxy",
		})
	})
}

func TestRateBecomesATimeForEachMessage(t *testing.T) {
	for _, test := range []struct {
		limits       Limits
		every, ahead time.Duration
	}{
		{Limits{MaxMessageRate: 50}, 20 * time.Millisecond, 49 * 20 * time.Millisecond},
		{Limits{MaxMessageRate: 50, MessageBurst: 1}, 20 * time.Millisecond, 0},
		{Limits{MaxMessageRate: maxRate, MessageBurst: 2}, time.Microsecond, time.Microsecond},
		{Limits{MaxMessageRate: -1}, 0, 0},
	} {
		var policy tunnel.Options
		test.limits.apply(&policy)
		if policy.MessageEvery != test.every || policy.MessageAhead != test.ahead {
			t.Errorf("%+v leaves %v for each, %v ahead; want %v and %v",
				test.limits, policy.MessageEvery, policy.MessageAhead, test.every, test.ahead)
		}
	}
}

func TestTunnelPassesMessagesBothWays(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/chat")
	c.Echo("hello")
	if got := tunnelsOf(up.Addr); got != 1 {
		t.Errorf("%d tunnels counted, want 1", got)
	}
	c.CloseHandshake(1000)
	expectFields(t, p.closedLine(), map[string]any{
		"reason":       "client_closed",
		"closed_by":    "client",
		"close_code":   uint16(1000),
		"close_from":   "client",
		"messages_in":  uint64(1),
		"messages_out": uint64(1),
		"upstream":     up.Addr,
	})
	up.WaitOpen(t, 0)
}

package integration

import (
	"net/http"
	"syscall"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// queueUp sends a handshake that has to wait, as the n-th one of all.
func (c *caddy) queueUp(t *testing.T, upstream string, n int) *testbed.Client {
	t.Helper()
	waiting := c.dial(t, false)
	waiting.Send(testbed.HandshakeRequest("/", waiting.Host))
	eventually(t, "the handshake waits", func() bool { return c.listedUpstreams(t)[upstream].Queued == n })
	return waiting
}

// TestQueueOutlivesAReload has handshakes of two configurations wait for the
// same place, which goes to those who have come first.
func TestQueueOutlivesAReload(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	config := proxyTo(up.Addr, "max_tunnels 1", "queue 10 1m", "handshake_timeout 1m")
	c := startCaddy(t, site(config))
	open := c.dial(t, false)
	open.Handshake("/")
	before := []*testbed.Client{c.queueUp(t, up.Addr, 1), c.queueUp(t, up.Addr, 2)}
	c.reload(t, site("respond /other ok\n"+config))
	for _, waiting := range append(before, c.queueUp(t, up.Addr, 3)) {
		open.CloseHandshake(1000)
		open.Close()
		if got := waiting.Response().StatusCode; got != http.StatusSwitchingProtocols {
			t.Fatalf("status %d, want 101", got)
		}
		waiting.Echo("hello")
		open = waiting
	}
}

// TestStopWithAQueue ends the process while handshakes wait. They are refused at
// once, as there will be no place for them.
func TestStopWithAQueue(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo(up.Addr, "max_tunnels 1", "queue 10 1m", "handshake_timeout off")))
	open := c.dial(t, false)
	open.Handshake("/")
	all := []*testbed.Client{c.queueUp(t, up.Addr, 1), c.queueUp(t, up.Addr, 2)}
	c.signal(t, syscall.SIGTERM)
	for _, waiting := range all {
		if got := waiting.Response().StatusCode; got != http.StatusServiceUnavailable {
			t.Errorf("status %d, want 503", got)
		}
	}
	open.ExpectClose(1001)
	open.WriteFrame(testbed.NewClose(1001, ""))
	open.ExpectEOF()
	c.expectExit(t)
	expectShutdown(t, c, 1)
}

// TestTunnelsPerClient has addresses that Caddy takes from a trusted proxy, which
// appends them to what clients say.
func TestTunnelsPerClient(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo(up.Addr, "max_tunnels_per_client 2"), "servers {\ntrusted_proxies static 127.0.0.1\ntrusted_proxies_strict\n}"))
	ask := func(client string) int {
		conn := c.dial(t, false)
		conn.Send(testbed.HandshakeRequest("/", conn.Host, "X-Forwarded-For: "+client))
		return conn.Response().StatusCode
	}
	for _, test := range []struct {
		client string
		want   int
	}{
		{"192.0.2.1", 101},
		{"192.0.2.1", 101},
		{"192.0.2.1", http.StatusTooManyRequests},
		{"203.0.113.66, 192.0.2.1", http.StatusTooManyRequests},
		{"192.0.2.2", 101},
		{"2001:db8::1", 101},
		{"2001:db8::2:0:0:1", 101},
		{"2001:db8::3", http.StatusTooManyRequests},
		{"2001:db8:0:1::1", 101},
	} {
		if got := ask(test.client); got != test.want {
			t.Errorf("a client at %s gets %d, want %d", test.client, got, test.want)
		}
	}
}

// TestWhoIsNotServedIsClosedOverStreams refuses by a Close who finds the queue full.
func TestWhoIsNotServedIsClosedOverStreams(t *testing.T) {
	if amount(1, 0) == 0 {
		t.Skip("takes ten seconds; set LONG to run it")
	}
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startStreaming(t, proxyTo(up.Addr, "max_tunnels 1", "queue 1 10ms", "retry_close", "subprotocols b a"))
	open := c.dial(t, false)
	open.Handshake("/")
	eachConnector(t, c, func(t *testing.T, open opener) {
		client := openWebSocket(t, open, webSocket("/", [2]string{"sec-websocket-protocol", "c, a, b"}))
		if client.header.Get("Sec-WebSocket-Protocol") != "a" {
			t.Errorf("the answer has %v", client.header)
		}
		client.expect(t, testbed.NewClose(1013, "queue_timeout"))
		client.send(t, testbed.NewClose(1013, ""))
		client.expectEnd(t)
	})
	for _, line := range c.log.wait(t, len(connectors), message("handshake refused")) {
		if line.str("cause") != "queue_timeout" || line.num("status") != http.StatusServiceUnavailable {
			t.Errorf("the line is %v", line)
		}
	}
}

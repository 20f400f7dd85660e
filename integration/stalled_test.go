package integration

import (
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestStalledClient has clients that do not read while the upstream sends more
// than any buffer on the way takes. That holds the upstream back, and then ends
// the tunnel.
func TestStalledClient(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
		c.Tolerate()
		c.AcceptHandshake()
		for payload := strings.Repeat("x", 1<<20); ; {
			c.WriteFrame(testbed.NewFrame(testbed.Binary, payload))
		}
	})
	c := startStreaming(t, proxyTo(up.Addr, "write_timeout 1s"))
	var tunnels []string
	for _, scheme := range schemes {
		client := c.dial(t, scheme == "wss")
		tunnels = append(tunnels, tunnelID(client.Handshake("/")))
	}
	for _, connect := range connectors {
		client := openWebSocket(t, connect(t, c), webSocket("/"))
		tunnels = append(tunnels, client.header.Get("X-Tunnel"))
	}
	for _, id := range tunnels {
		line := c.log.waitOne(t, message("tunnel closed", "tunnel", id))
		if line.str("reason") != "write_timeout" || line.str("closed_by") != "proxy" {
			t.Errorf("logged %v, want reason write_timeout", line)
		}
	}
	up.WaitOpen(t, 0)
}

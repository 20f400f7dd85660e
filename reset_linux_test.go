package websocketproxy

import (
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// onlyTunnel waits for a tunnel whose client has got its answer.
func onlyTunnel(tb testing.TB) *tunnel.Tunnel {
	tb.Helper()
	eventually(tb, "there is a tunnel", func() bool { return process.live.Count() == 1 })
	return process.live.Collect(nil)[0]
}

// Whoever has taken all of what was passed on before the reset, or does so soon, has
// it.
func TestResetTakesNothingAwayFromTheUpstream(t *testing.T) {
	overSockets(t, func(p *testProxy, c *testbed.Client, u *testbed.Conn) {
		words := testbed.NewFrame(testbed.Binary, strings.Repeat("x", 200_000))
		c.WriteFrame(words)
		all := uint64(len(words.Bytes(true)))
		live := onlyTunnel(p.tb)
		eventually(p.tb, "all was passed on", func() bool {
			return live.Snapshot().BytesIn == all
		})
		c.Reset()
		eventually(p.tb, "the tunnel ends", func() bool { return !live.IsOpen() })
		u.ExpectFrame(words.Opcode, string(words.Payload))
		if u.NetConn().LocalAddr().Network() == "unix" {
			u.ExpectClosed()
		} else {
			u.ExpectReset()
		}
		expectFields(p.tb, p.closedLine(), map[string]any{
			"reason": "client_reset", "messages_in": uint64(1), "bytes_in": all,
		})
	})
}

// Somebody who reads nothing more is not waited for.
func TestResetDoesNotWaitForAnUpstreamThatReadsNothing(t *testing.T) {
	p, c, u := openTunnel(t, nil)
	if conn, ok := u.NetConn().(interface{ SetReadBuffer(n int) error }); ok {
		_ = conn.SetReadBuffer(4096)
	}
	c.WriteFrame(testbed.NewFrame(testbed.Binary, strings.Repeat("x", 200_000)))
	live := onlyTunnel(t)
	// Of which the upstream's system takes much less.
	eventually(t, "something waits", func() bool { return live.Snapshot().BytesIn > 100_000 })
	c.Reset()
	expectFields(t, p.closedLine(), map[string]any{"reason": "client_reset"})
	u.Drain()
}

package integration

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestStuckTunnelsHoldUpNobody has upstreams that read nothing, to which clients have sent
// all that they may. Other tunnels in the same connection echo as before.
func TestStuckTunnelsHoldUpNobody(t *testing.T) {
	t.Parallel()
	stuck := testbed.NewUpstream(t, readNothing)
	echo := testbed.NewUpstream(t, testbed.Echo)
	c := startStreaming(t, "handle /stuck {\n"+proxyTo(stuck.Addr, "write_timeout off")+"\n}\n"+proxyTo(echo.Addr))
	for protocol, most := range map[string]int{
		"h2": 10, "h2c": 10,
		// Caddy says nothing of QUIC's windows: half a MiB for a stream, three quarters
		// for a connection.
		"h3": 1,
	} {
		t.Run(protocol, func(t *testing.T) {
			open := connectors[protocol](t, c)
			neighbour := openWebSocket(t, open, webSocket("/"))
			// The windows of a QUIC connection grow with what is read, so this is first.
			fillUp(t, openWebSocket(t, open, webSocket("/stuck")))
			neighbour.echo(t, "beside one that is stuck")
			var waits []func()
			for range most - 1 {
				client := openWebSocket(t, open, webSocket("/stuck"))
				waits = append(waits, testbed.Go(t, func(tb testing.TB) { tb.Helper(); fillUp(tb, client) }))
			}
			for _, wait := range waits {
				wait()
			}
			neighbour.echo(t, "beside all that are stuck")
			waits = nil
			for range 100 - most - 1 {
				client := openWebSocket(t, open, webSocket("/"))
				waits = append(waits, testbed.Go(t, func(tb testing.TB) {
					tb.Helper()
					client.echoLong(tb, 320<<10) // more than any window that it begins with
				}))
			}
			for _, wait := range waits {
				wait()
			}
		})
	}
}

// readNothing accepts the handshake and then reads nothing.
func readNothing(tb testing.TB, c *testbed.Conn) {
	tb.Helper()
	c.Tolerate()
	if tcp, ok := c.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4096)
	}
	c.AcceptHandshake()
	testbed.BlackHole(tb, c)
}

// fillUp sends until nothing on the way takes more.
func fillUp(tb testing.TB, client *streamClient) {
	tb.Helper()
	frame := testbed.NewFrame(testbed.Binary, strings.Repeat("x", 16_000)).Bytes(true)
	s, ok := client.stream.(interface {
		writeWithin(p []byte, limit time.Duration) (int, error)
	})
	if !ok {
		tb.Fatalf("a %T cannot tell that it is stuck", client.stream)
	}
	for sent := 0; ; sent++ {
		if _, err := s.writeWithin(frame, 500*time.Millisecond); err != nil {
			return
		}
		if sent > 10_000 {
			tb.Fatal("an upstream that reads nothing has taken 160 MB")
		}
	}
}

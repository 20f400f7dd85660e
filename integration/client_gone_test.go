package integration

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// departures are the ways in which the client of a stream goes.
var departures = map[string]struct {
	leave     func(tb testing.TB, c *streamClient)
	http3Only bool
}{
	"reset":      {leave: func(tb testing.TB, c *streamClient) { tb.Helper(); c.cancel(tb) }},
	"disconnect": {leave: func(tb testing.TB, c *streamClient) { tb.Helper(); c.disconnect(tb) }},
	"reset of its direction": {http3Only: true, leave: func(_ testing.TB, c *streamClient) {
		c.stream.(*h3Stream).CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}},
	"STOP_SENDING": {http3Only: true, leave: func(_ testing.TB, c *streamClient) {
		c.stream.(*h3Stream).CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}},
}

// TestConnectClientGone has clients go while the upstream does something, or
// nothing at all, which no timeout ends. It is left.
func TestConnectClientGone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(t *testing.T, client *streamClient, u *testbed.Conn)
		reason  string
		// without is a departure that is none.
		without string
	}{
		"that waits":         {func(*testing.T, *streamClient, *testbed.Conn) {}, "client_reset", ""},
		"that reads nothing": {overfill, "client_reset", ""},
		"that talks and reads nothing": {func(t *testing.T, client *streamClient, u *testbed.Conn) {
			t.Helper()
			overfill(t, client, u)
			u.WriteFrame(testbed.NewFrame(testbed.Text, "news"))
			client.expect(t, testbed.NewFrame(testbed.Text, "news"))
		}, "client_reset", ""},
		"that knows the client's end": {func(t *testing.T, client *streamClient, u *testbed.Conn) {
			t.Helper()
			client.closeWrite(t)
			u.ExpectEOF()
		}, "client_closed", "reset of its direction"},
		"that knows the client's Close": {func(t *testing.T, client *streamClient, u *testbed.Conn) {
			t.Helper()
			client.send(t, testbed.NewClose(1000, ""))
			u.ExpectClose(1000)
		}, "client_closed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := testbed.NewUpstream(t, nil)
			c := startStreaming(t, proxyTo(up.Addr, "write_timeout off", "idle_timeout off", "half_close_timeout off"))
			for departure, how := range departures {
				for protocol, connect := range connectors {
					if how.http3Only && protocol != "h3" || departure == test.without {
						continue
					}
					t.Run(protocol+", "+departure, func(t *testing.T) {
						client, u, _ := accept(t, up, connect(t, c), webSocket("/"))
						client.send(t, testbed.NewFrame(testbed.Text, "hello"))
						u.ExpectFrame(testbed.Text, "hello") // so there is a tunnel
						test.prepare(t, client, u)
						how.leave(t, client)
						expectLeft(t, c, client, u, test.reason)
					})
				}
			}
			up.WaitOpen(t, 0)
		})
	}
}

// expectLeft waits for the end of a tunnel whose client has gone.
func expectLeft(t *testing.T, c *caddy, client *streamClient, u *testbed.Conn, reason string) {
	t.Helper()
	line := c.log.waitOne(t, message("tunnel closed", "tunnel", client.header.Get("X-Tunnel")))
	if line.str("reason") != reason || line.str("closed_by") != "client" {
		t.Errorf("logged %v, want reason %s", line, reason)
	}
	if reason == "client_reset" {
		expectResetAfter(t, u)
	}
	u.Drain()
	u.Close()
}

// TestConnectClientVanishes has clients of HTTP/3 that say nothing any more, which
// only their connection's idle timeout tells.
func TestConnectClientVanishes(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, nil)
	c := startStreaming(t, proxyTo(up.Addr, "write_timeout off", "idle_timeout off", "half_close_timeout off"))
	for name, test := range map[string]struct {
		prepare func(t *testing.T, client *streamClient, u *testbed.Conn)
		reason  string
	}{
		"upstream that waits":         {func(*testing.T, *streamClient, *testbed.Conn) {}, "client_lost"},
		"upstream that reads nothing": {overfill, "client_lost"},
		// Nobody reads from the client, and nobody will write.
		"upstream that has ended, and reads nothing": {func(t *testing.T, client *streamClient, u *testbed.Conn) {
			t.Helper()
			overfill(t, client, u)
			u.CloseWrite()
			client.expectEnd(t)
		}, "upstream_closed"},
	} {
		t.Run(name, func(t *testing.T) {
			h := dialQUICWith(t, c, &quic.Config{MaxIdleTimeout: time.Second})
			client, u, _ := accept(t, up, h.opener(t, c), webSocket("/"))
			test.prepare(t, client, u)
			h.vanish()
			line := c.log.waitOne(t, message("tunnel closed", "tunnel", client.header.Get("X-Tunnel")))
			if got := line.str("reason"); got != test.reason {
				t.Errorf("the tunnel ended with reason %s, want %s", got, test.reason)
			}
			if test.reason == "client_lost" {
				expectResetAfter(t, u)
			}
			u.Close()
		})
	}
}

// expectResetAfter reads what was sent before, up to a reset.
func expectResetAfter(t *testing.T, u *testbed.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, u); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the upstream's connection has ended by %v, want a reset", err)
	}
}

// overfill sends until nothing on the way takes more.
func overfill(t *testing.T, client *streamClient, u *testbed.Conn) {
	t.Helper()
	if tcp, ok := u.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4096)
	}
	var sent atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		frame := testbed.NewFrame(testbed.Binary, strings.Repeat("x", 10_000)).Bytes(true)
		for {
			n, err := client.Write(frame)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { <-ended })
	const rest = 300 * time.Millisecond
	for before := int64(-1); sent.Load() != before; time.Sleep(rest) {
		before = sent.Load()
	}
}

package integration

import (
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestStopWithHTTP3Clients has clients that keep their connection open, or leave it
// without a word. A server of HTTP/3 waits for each of them, half a minute for one
// that has gone and for ever for one that stays.
func TestStopWithHTTP3Clients(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		alive time.Duration // how often the connection is kept alive
		use   func(t *testing.T, c *caddy, h *h3Conn) rawH3Stream
		// reload tells that a configuration without us is loaded before the stop.
		reload bool
	}{
		"one that stays after a tunnel":              {use: useTunnel},
		"one that keeps its connection alive":        {alive: time.Second, use: useTunnel},
		"one that has vanished":                      {use: vanishAfter(useTunnel)},
		"one that has only got a page":               {use: usePage},
		"one that still gets a page":                 {use: useEndlessPage},
		"one that has vanished in a tunnel":          {use: vanishAfter(openTunnel)},
		"one of an older configuration":              {alive: time.Second, use: useTunnel, reload: true},
		"one of an older configuration, in a tunnel": {alive: time.Second, use: openTunnel, reload: true},
		"an older configuration's that has vanished": {use: vanishAfter(useTunnel), reload: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			echo, endless := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, beginPage)
			c := startStreaming(t, strings.Join([]string{
				"route {",
				proxyTo(echo.Addr, "shutdown_period 1s", "evict_period off"),
				"reverse_proxy /endless " + endless.Addr,
				"respond page",
				"}",
			}, "\n"))
			test.use(t, c, dialQUICWith(t, c, &quic.Config{
				MaxIdleTimeout: 4 * timeout, KeepAlivePeriod: test.alive,
			}))
			if test.reload {
				c.reload(t, site("respond gone", streaming))
			}
			c.signal(t, syscall.SIGTERM)
			c.expectExit(t)
			echo.WaitOpen(t, 0)
			endless.WaitOpen(t, 0)
		})
	}
}

// beginPage begins an answer and leaves it at that.
func beginPage(_ testing.TB, c *testbed.Conn) {
	c.Tolerate()
	c.ReadRequest()
	c.Send("HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + strings.Repeat("page", 1250))
	c.Drain()
}

func openTunnel(t *testing.T, c *caddy, h *h3Conn) rawH3Stream {
	t.Helper()
	s := h.sendWebSocket(t, c)
	s.sendFrame(t, 0, testbed.NewFrame(testbed.Text, "hello").Bytes(true))
	s.awaitText(t, "hello")
	return s
}

func useTunnel(t *testing.T, c *caddy, h *h3Conn) rawH3Stream {
	t.Helper()
	s := openTunnel(t, c, h)
	s.sendFrame(t, 0, testbed.NewClose(1000, "").Bytes(true))
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Fatalf("HTTP/3: waiting for the end of the stream: %v", err)
	}
	c.log.waitOne(t, tunnelClosed)
	return s
}

func usePage(t *testing.T, c *caddy, h *h3Conn) rawH3Stream {
	t.Helper()
	return h.get(t, c, "/")
}

func useEndlessPage(t *testing.T, c *caddy, h *h3Conn) rawH3Stream {
	t.Helper()
	return h.get(t, c, "/endless")
}

func (h *h3Conn) get(t *testing.T, c *caddy, path string) rawH3Stream {
	t.Helper()
	s := h.sendHead(t, [][2]string{
		{":method", "GET"},
		{":scheme", "https"},
		{":authority", c.https},
		{":path", path},
	}...)
	s.awaitText(t, "page")
	return s
}

// vanishAfter lets the connection lie when it has been used.
func vanishAfter(use func(t *testing.T, c *caddy, h *h3Conn) rawH3Stream) func(t *testing.T, c *caddy, h *h3Conn) rawH3Stream {
	return func(t *testing.T, c *caddy, h *h3Conn) rawH3Stream {
		t.Helper()
		s := use(t, c, h)
		h.vanish()
		return s
	}
}

package integration

import (
	"path/filepath"
	"testing"
)

// The tests in this file have clients and proxies that others made use WebSockets
// over HTTP/2 and HTTP/3.

// TestNodeOverHTTP2 has Node's own HTTP/2 carry WebSockets to servers of each make,
// all in one connection.
func TestNodeOverHTTP2(t *testing.T) {
	t.Parallel()
	needNode(t)
	for name, start := range servers {
		t.Run("server="+name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			c := startStreaming(t, proxyTo(s.addr))
			node(t, []string{"NODE_EXTRA_CA_CERTS=" + c.certs.CAFile}, "client.js", c.url("wss", "/"), "http2")
			const tunnels = 3 + 3*2
			checkTunnels(t, c, "h2", tunnels)
			for range tunnels {
				within(t, "the server saw the end", s.ends)
			}
		})
	}
}

// streamPage is a site with a page whose scripts can open WebSockets, at /ws.
func streamPage(upstream string) string {
	return "header Content-Type text/html\nrespond /page `<!doctype html><title>page</title>`\n" +
		proxyTo("/ws "+upstream)
}

// TestChromiumOverHTTP2 has a page open its WebSockets as streams of the connection
// that it was loaded over, as Chromium's own log of the network tells.
func TestChromiumOverHTTP2(t *testing.T) {
	t.Parallel()
	needNode(t, "playwright-core")
	browser := needBrowser(t)
	s := startGorilla(t)
	c := startStreaming(t, streamPage(s.addr))
	node(t, nil, "http2-page.js", browser, "https://"+c.https, filepath.Join(t.TempDir(), "net.json"))
	checkTunnels(t, c, "h2", 3)
}

// TestFirefoxOverHTTP2 has a page open WebSockets, which Caddy has to see as streams.
func TestFirefoxOverHTTP2(t *testing.T) {
	t.Parallel()
	needNode(t)
	browser := needBrowser(t, "firefox-esr", "firefox")
	s := startGorilla(t)
	c := startStreaming(t, streamPage(s.addr))
	node(t, nil, "http2-firefox.js", browser, t.TempDir(), "https://"+c.https)
	checkTunnels(t, c, "h2", 3)
}

// checkTunnels waits for the ends of so many tunnels, all of one protocol and none
// with an end that a good client does not have.
func checkTunnels(tb testing.TB, c *caddy, protocol string, n int) {
	tb.Helper()
	for _, line := range c.log.wait(tb, n, tunnelClosed) {
		if got := line.str("protocol"); got != protocol {
			tb.Errorf("a tunnel came over %q, want %q: %v", got, protocol, line)
		}
		if reason := line.str("reason"); reason != "client_closed" && reason != "upstream_closed" {
			tb.Errorf("a tunnel of a good client ended with %v", line)
		}
	}
}

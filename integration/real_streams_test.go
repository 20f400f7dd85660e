package integration

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
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
	browser := testbed.Program(t, "chromium")
	s := startGorilla(t)
	c := startStreaming(t, streamPage(s.addr))
	node(t, nil, "http2-page.js", browser, "https://"+c.https, filepath.Join(t.TempDir(), "net.json"))
	checkTunnels(t, c, "h2", 3)
}

// TestChromiumOverHTTP3 is TestChromiumOverHTTP2 with what Chromium has, but does not
// use unless it is told to.
func TestChromiumOverHTTP3(t *testing.T) {
	t.Parallel()
	needNode(t, "playwright-core")
	browser := testbed.Program(t, "chromium")
	s := startGorilla(t)
	c := startStreaming(t, streamPage(s.addr))
	// Over QUIC it takes a certificate that it does not know by nothing but its key.
	key := sha256.Sum256(c.certs.Server.Leaf.RawSubjectPublicKeyInfo)
	node(t, nil, "http3-page.js", browser, "https://"+c.https, base64.StdEncoding.EncodeToString(key[:]))
	checkTunnels(t, c, "h3", 3)
}

// TestFirefoxOverHTTP2 has a page open WebSockets, which Caddy has to see as streams.
func TestFirefoxOverHTTP2(t *testing.T) {
	t.Parallel()
	needNode(t)
	browser := testbed.Program(t, "firefox-esr")
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

// TestGoOverHTTP3 has a WebSocket library of Go use quic-go's client, with all tunnels
// in one connection.
func TestGoOverHTTP3(t *testing.T) {
	t.Parallel()
	s := startGorilla(t)
	c := startStreaming(t, proxyTo(s.addr))
	transport := &http3.Transport{TLSClientConfig: c.certs.ClientConfig()}
	t.Cleanup(func() { _ = transport.Close() })
	l := &library{c: c, s: s, url: c.url("wss", "/"), dial: func(tb testing.TB, url string, opts dialOptions) client {
		opts.over = upgrader{transport}
		return dialCoder(tb, url, opts)
	}}
	// More than a stream's window is at first. A packet takes ten times the processor's time of
	// those of TCP, so 8 MiB take half a minute on a machine that is busy.
	l.long = 2 << 20
	t.Run("messages", l.testMessages)
	t.Run("compressed", l.testCompressed)
	t.Run("pings", l.testPings)
	t.Run("closes", l.testCloses)
	checkTunnels(t, c, "h3", 3+3*2)
}

// upgrader makes an extended CONNECT of each request for an upgrade to a WebSocket, and
// the answer for an upgrade of the answer to that.
type upgrader struct{ http.RoundTripper }

func (u upgrader) RoundTrip(req *http.Request) (*http.Response, error) {
	connect := req.Clone(req.Context())
	connect.Method, connect.Proto = http.MethodConnect, "websocket"
	for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Key"} {
		connect.Header.Del(name)
	}
	body, toBody := io.Pipe()
	connect.Body, connect.ContentLength = body, -1
	resp, err := u.RoundTripper.RoundTrip(connect)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	resp.StatusCode = http.StatusSwitchingProtocols
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	resp.Header.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	resp.Header.Set("Connection", "Upgrade")
	resp.Header.Set("Upgrade", "websocket")
	resp.Body = upgraded{resp.Body, toBody}
	return resp, nil
}

// upgraded is both directions of a tunnel.
type upgraded struct {
	io.ReadCloser
	out *io.PipeWriter
}

func (u upgraded) Write(p []byte) (int, error) { return u.out.Write(p) }

func (u upgraded) Close() error {
	_ = u.out.Close() // never fails
	return u.ReadCloser.Close()
}

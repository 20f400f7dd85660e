package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// inFront are the handlers that a site may have in front of ours and that wrap
// the response writer or change the response.
const inFront = `
	log
	encode gzip zstd
	header X-Set set
	header X-Deferred deferred
	header >X-Late late
	header -X-Secret
`

// TestAccessLog checks when the lines are written, and that they belong
// together.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, nil)
	c := startCaddy(t, site("log\n"+proxyTo(up.Addr)))
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			client, upstream, resp := connect(t, c, up, scheme == "wss")
			id := tunnelID(resp)
			line := c.log.waitOne(t, message("handled request", "tunnel", id))
			if line.num("status") != http.StatusSwitchingProtocols || line.str("upstream") != up.Addr ||
				line.str("logger") == "" || !strings.HasPrefix(line.str("logger"), "http.log.access") {
				t.Errorf("the access log has %v, want status 101 and upstream %s", line, up.Addr)
			}

			client.WriteFrame(testbed.NewFrame(testbed.Text, "hello"))
			upstream.ExpectFrame(testbed.Text, "hello")
			closed := message("tunnel closed", "tunnel", id)
			if lines := c.log.find(closed); len(lines) > 0 {
				t.Errorf("the open tunnel is logged as closed: %v", lines)
			}
			client.WriteFrame(testbed.NewClose(1000, ""))
			upstream.ExpectClose(1000)
			upstream.WriteFrame(testbed.NewClose(1000, ""))
			upstream.Close()
			client.ExpectClose(1000)
			client.ExpectEOF()
			client.Close()
			line = c.log.waitOne(t, closed)
			checkClosedBy(t, line, "client", 1000)
			// The frames have a header of two bytes, and of six if masked.
			if in, out := line.num("bytes_in"), line.num("bytes_out"); in != 6+5+6+2 || out != 2+2 {
				t.Errorf("the log has %v bytes in and %v out, want 19 and 4", in, out)
			}
		})
	}
	if lines := c.log.find(message("handled request")); len(lines) != len(schemes) {
		t.Errorf("%d handshakes have %d lines in the access log", len(schemes), len(lines))
	}
}

// connect opens a tunnel and returns both its ends.
func connect(t *testing.T, c *caddy, up *testbed.Upstream, secure bool) (
	*testbed.Client, *testbed.Conn, *http.Response,
) {
	t.Helper()
	return handshake(t, c.dial(t, secure), up)
}

func handshake(t *testing.T, client *testbed.Client, up *testbed.Upstream) (
	*testbed.Client, *testbed.Conn, *http.Response,
) {
	t.Helper()
	var upstream *testbed.Conn
	accepted := testbed.Go(t, func(tb testing.TB) {
		upstream = up.Next(tb)
		upstream.AcceptHandshake("X-Secret: of the upstream", "Set-Cookie: a=1", "Set-Cookie: b=2")
	})
	resp := client.Handshake("/")
	accepted()
	return client, upstream, resp
}

// TestWrappedWriter opens tunnels through handlers that wrap the response
// writer. All header fields arrive, and both peers can half-close.
func TestWrappedWriter(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, nil)
	c := startCaddy(t, site(inFront+proxyTo(up.Addr), "metrics"))
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			for name, halfClose := range map[string]func(t *testing.T, client, upstream *testbed.Conn){
				"client first":   checkHalfClose,
				"upstream first": func(t *testing.T, client, upstream *testbed.Conn) { checkHalfClose(t, upstream, client) },
			} {
				t.Run(name, func(t *testing.T) {
					client, upstream, resp := connect(t, c, up, scheme == "wss")
					for name, want := range map[string]string{
						"X-Set":      "set",
						"X-Deferred": "deferred",
						"X-Late":     "late",
						"X-Secret":   "",
						"Set-Cookie": "a=1, b=2",
						"Via":        "1.1 Caddy",
					} {
						if got := strings.Join(resp.Header.Values(name), ", "); got != want {
							t.Errorf("the 101 has %s %q, want %q", name, got, want)
						}
					}
					halfClose(t, client.Conn, upstream)
				})
			}
		})
	}
	metrics := func() string {
		_, text, err := c.adminRequest(t, http.MethodGet, "/metrics", "")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if text := metrics(); !strings.Contains(text, `code="101"`) {
		t.Error("Caddy's metrics have no response with code 101")
	}
}

// checkHalfClose ends one direction and uses the other one.
func checkHalfClose(t *testing.T, first, second *testbed.Conn) {
	t.Helper()
	first.Send("the last of the first")
	first.CloseWrite()
	second.Expect("the last of the first")
	second.ExpectEOF()
	long := strings.Repeat("the second is not done. ", 1<<15)
	sending := testbed.Go(t, func(testing.TB) { second.Send(long) })
	first.Expect(long)
	sending()
	second.Close()
	first.ExpectEOF()
	first.Close()
}

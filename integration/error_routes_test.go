package integration

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// credulous is an upstream behind an error route. It opens a tunnel for whoever
// asks, and remembers what it got.
type credulous struct {
	mu       sync.Mutex
	upgrades []string // heads of requests for a tunnel
	payload  string   // what came after heads
}

func (u *credulous) serve(tb testing.TB, c *testbed.Conn) {
	tb.Helper()
	c.Tolerate()
	for {
		r := c.ReadRequest()
		switch {
		case r.Header.Get("Upgrade") != "":
			u.note(c.RawHead(), "")
			c.Accept(r)
			u.listen(c)
			return
		case r.Method == http.MethodConnect:
			u.listen(c)
			c.Send("HTTP/1.1 200 OK\r\n\r\n")
			return
		}
		c.Send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")
	}
}

// listen waits for bytes of the client or until the proxy leaves.
func (u *credulous) listen(c *testbed.Conn) {
	p := make([]byte, 1000)
	n, _ := c.Read(p)
	u.note("", string(p[:n]))
}

func (u *credulous) note(upgrade, payload string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if upgrade != "" {
		u.upgrades = append(u.upgrades, upgrade)
	}
	u.payload += payload
}

// expectNothing checks that nobody has got a tunnel, when all is over.
func (u *credulous) expectNothing(tb testing.TB, up *testbed.Upstream) {
	tb.Helper()
	up.WaitOpen(tb, 0)
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.upgrades) > 0 {
		tb.Errorf("a tunnel was asked for:\n%s", strings.Join(u.upgrades, ""))
	}
	if u.payload != "" {
		tb.Errorf("the upstream got %q of a client that was refused", u.payload)
	}
}

// refusals are sites whose handshakes are refused, by path.
func refusals(tb testing.TB) (site string, statusOf map[string]int) {
	tb.Helper()
	up := testbed.NewUpstream(tb, testbed.Echo)
	accepting := testbed.NewUpstream(tb, testbed.Respond("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	garbled := testbed.NewUpstream(tb, testbed.Respond("HTTP/1.1 101 Switching Protocols\r\n\r\n"))
	var routes []string
	for path, proxy := range map[string]string{
		"origin":      proxyTo(up.Addr, "origins https://example.com"),
		"subprotocol": proxyTo(up.Addr, "subprotocols chat"),
		"version":     proxyTo(up.Addr),
		"malformed":   proxyTo(up.Addr),
		"full":        proxyTo(up.Addr, "max_tunnels 1", "queue off"),
		"greedy":      proxyTo(up.Addr, "max_tunnels_per_client 1"),
		"nobody":      proxyTo(testbed.RefusedAddr(tb)),
		"accepting":   proxyTo(accepting.Addr),
		"garbled":     proxyTo(garbled.Addr),
	} {
		routes = append(routes, "handle /"+path+"* {\n"+proxy+"\n}")
	}
	return strings.Join(routes, "\n"), map[string]int{
		"origin": 403, "subprotocol": 400, "version": 400, "malformed": 400, "full": 503, "greedy": 429,
		"nobody": 502, "accepting": 502, "garbled": 502,
	}
}

// fieldsFor are the fields of a request for a WebSocket that is refused at a path.
func fieldsFor(path string) [][2]string {
	fields := [][2]string{{"origin", "https://example.org"}, {"sec-websocket-protocol", "soap"}}
	switch path {
	case "version":
		return append(fields, [2]string{"sec-websocket-version", "8"})
	case "malformed":
		return fields
	}
	return append(fields, [2]string{"sec-websocket-version", "13"})
}

// TestErrorRouteMakesNoTunnel has an error route that passes requests on to an
// upstream, as reverse_proxy would make a tunnel of a handshake that was refused.
func TestErrorRouteMakesNoTunnel(t *testing.T) {
	t.Parallel()
	u := new(credulous)
	up := testbed.NewUpstream(t, u.serve)
	routes, statusOf := refusals(t)
	routes += "\nhandle_errors {\nreverse_proxy " + up.Addr + " {\nreplace_status {err.status_code}\n}\n}"
	c := startStreaming(t, routes)
	frame := string(testbed.NewFrame(testbed.Text, "smuggled").Bytes(true))

	// Where one more is too many.
	for _, path := range []string{"/full", "/greedy"} {
		client := c.dial(t, false)
		client.Handshake(path)
		client.Echo("the first")
	}
	eachConnector(t, c, func(t *testing.T, open opener) {
		for path, status := range statusOf {
			t.Run(path, func(t *testing.T) {
				s := open(t, request{protocol: "websocket", path: "/" + path, fields: fieldsFor(path)})
				defer s.cancel(t)
				_, _ = io.WriteString(s, frame) // the server may have gone on
				if got, _ := s.response(t); got != status {
					t.Errorf("status %d, want %d", got, status)
				}
				_, _ = io.WriteString(s, frame)
			})
		}
		u.expectNothing(t, up)
	})
	for _, secure := range []bool{false, true} {
		for path, status := range statusOf {
			t.Run("h1/"+path, func(t *testing.T) {
				expectPage(t, c.dial(t, secure), path, status, frame)
			})
		}
	}
	c.stop(t) // which closes the connections to the upstream
	u.expectNothing(t, up)
}

// TestErrorRouteBehindTracing has a handler in front that copies the request, so
// that over HTTP/3 ours is not the one that an error route would get.
func TestErrorRouteBehindTracing(t *testing.T) {
	t.Parallel()
	u := new(credulous)
	up := testbed.NewUpstream(t, u.serve)
	c := startCaddy(t, site("tracing\n"+proxyTo(testbed.RefusedAddr(t))+`
		handle_errors {
			reverse_proxy `+up.Addr+`
		}`, streaming), "OTEL_TRACES_EXPORTER=none")
	frame := string(testbed.NewFrame(testbed.Text, "smuggled").Bytes(true))
	eachConnector(t, c, func(t *testing.T, open opener) {
		s := open(t, webSocket("/"))
		defer s.cancel(t)
		_, _ = io.WriteString(s, frame) // the server may have gone on
		if got, _ := s.response(t); got != http.StatusBadGateway {
			t.Errorf("status %d, want 502", got)
		}
	})
	c.stop(t)
	u.expectNothing(t, up)
}

// expectPage sends a handshake with more behind it over HTTP/1.1, and expects
// the page of the error route. Later bytes are another request.
func expectPage(t *testing.T, client *testbed.Client, path string, status int, more string) {
	t.Helper()
	lines := []string{"Sec-WebSocket-Version:"}
	for _, f := range fieldsFor(path) {
		lines = append(lines, f[0]+": "+f[1])
	}
	client.Send(testbed.HandshakeRequest("/"+path, client.Host, lines...) + more)
	resp := client.Response()
	switch path {
	case "version":
		status = http.StatusUpgradeRequired
	case "accepting":
		status = http.StatusOK // what the upstream says is passed on
	}
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d", resp.StatusCode, status)
	}
	if body := client.Body(resp); path != "accepting" && body != "page" {
		t.Errorf("body %q, want that of the error route", body)
	}
}

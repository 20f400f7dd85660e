package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// The tests in this file are for extended CONNECT over HTTP/2 (RFC 8441), with
// and without TLS, and HTTP/3 (RFC 9220).

// eachConnector runs a test over each protocol, with one Caddy.
func eachConnector(t *testing.T, c *caddy, test func(t *testing.T, open opener)) {
	t.Helper()
	for name, connect := range connectors {
		t.Run(name, func(t *testing.T) { test(t, connect(t, c)) })
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, nil)
	c := startStreaming(t, "log\n"+proxyTo(up.Addr, "subprotocols chat.v2"))
	eachConnector(t, c, func(t *testing.T, open opener) {
		client, upstream, got := accept(t, up, open,
			webSocket("/path?q=1",
				[2]string{"sec-websocket-protocol", "chat.v1, chat.v2"},
				[2]string{"origin", "https://example.com"}),
			"Sec-WebSocket-Protocol: chat.v2")

		checkUpstreamRequest(t, c, got, upstream.RawHead())
		for _, name := range []string{"Sec-WebSocket-Accept", "Upgrade", "Connection"} {
			if values := client.header.Values(name); len(values) > 0 {
				t.Errorf("the response has %s: %q", name, values)
			}
		}
		if got := client.header.Values("Sec-WebSocket-Protocol"); len(got) != 1 || got[0] != "chat.v2" {
			t.Errorf("the response has subprotocols %q, want chat.v2", got)
		}

		client.send(t, testbed.NewFrame(testbed.Text, "to the upstream"))
		upstream.ExpectFrame(testbed.Text, "to the upstream")
		upstream.WriteFrame(testbed.NewFrame(testbed.Binary, "to the client"))
		client.expect(t, testbed.NewFrame(testbed.Binary, "to the client"))
		client.send(t, testbed.NewFrame(testbed.Ping, "p"))
		upstream.ExpectFrame(testbed.Ping, "p")
		upstream.WriteFrame(testbed.NewFrame(testbed.Pong, "p"))
		client.expect(t, testbed.NewFrame(testbed.Pong, "p"))

		client.send(t, testbed.NewClose(4001, "enough"))
		if reason := upstream.ExpectClose(4001); reason != "enough" {
			t.Errorf("the upstream got the reason %q", reason)
		}
		upstream.WriteFrame(testbed.NewClose(4001, ""))
		client.expect(t, testbed.NewClose(4001, ""))
		upstream.Close()
		client.expectEnd(t)

		id := client.header.Get("X-Tunnel")
		checkClosedBy(t, c.log.waitOne(t, message("tunnel closed", "tunnel", id)), "client", 4001)
		line := c.log.waitOne(t, message("handled request", "tunnel", id))
		if line.num("status") != http.StatusOK || line.str("upstream") != up.Addr {
			t.Errorf("the access log has %v, want status 200 and upstream %s", line, up.Addr)
		}
	})
}

// checkUpstreamRequest checks the HTTP/1.1 handshake that was made from an
// extended CONNECT; the testbed has checked its form.
func checkUpstreamRequest(t *testing.T, c *caddy, r *http.Request, raw string) {
	t.Helper()
	if r.Host != c.http && r.Host != c.https {
		t.Errorf("the upstream got Host %q", r.Host)
	}
	for name, want := range map[string]string{
		"Origin":                 "https://example.com",
		"Sec-WebSocket-Protocol": "chat.v2", // what the configuration leaves of the offer
	} {
		if got := r.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("the upstream got %s %q, want %q", name, got, want)
		}
	}
	if got := r.URL.RequestURI(); got != "/path?q=1" {
		t.Errorf("the upstream got the path %q", got)
	}
	for line := range strings.SplitSeq(raw, "\r\n") {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(line, ":") || strings.EqualFold(name, "protocol:") {
			t.Errorf("the upstream got the line %q", line)
		}
	}
}

// TestConnectKeysAreFresh checks that no two tunnels share a key.
func TestConnectKeysAreFresh(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, nil)
	c := startStreaming(t, proxyTo(up.Addr))
	keys := make(map[string]bool)
	eachConnector(t, c, func(t *testing.T, open opener) {
		for range 3 {
			_, upstream, got := accept(t, up, open, webSocket("/", [2]string{"sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="}))
			key := got.Header.Get("Sec-WebSocket-Key")
			if keys[key] || key == "dGhlIHNhbXBsZSBub25jZQ==" {
				t.Errorf("key %s is not fresh", key)
			}
			keys[key] = true
			upstream.Close()
		}
	})
}

// TestConnectManyAtOnce echoes more than any flow control window on several
// streams of one connection, and much on one of them.
func TestConnectManyAtOnce(t *testing.T) {
	t.Parallel()
	const (
		streams = 10
		each    = 256 << 10
		much    = 8 << 20
	)
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startStreaming(t, proxyTo(up.Addr))
	eachConnector(t, c, func(t *testing.T, open opener) {
		clients := make([]*streamClient, streams)
		for i := range clients {
			clients[i] = openWebSocket(t, open, webSocket(fmt.Sprint("/", i)))
		}
		var waits []func()
		for i, client := range clients {
			waits = append(waits, testbed.Go(t, func(tb testing.TB) {
				size := each
				if i == 0 {
					size = much
				}
				client.echoLong(tb, size)
			}))
		}
		for _, wait := range waits {
			wait()
		}
		for _, client := range clients {
			client.send(t, testbed.NewClose(1000, ""))
			client.expect(t, testbed.NewClose(1000, ""))
			client.expectEnd(t)
		}
	})
}

// echoLong sends a message of size bytes in several frames, while it reads what
// comes back.
func (c *streamClient) echoLong(tb testing.TB, size int) {
	tb.Helper()
	const part = 64 << 10
	sent := sha256.New()
	wait := testbed.Go(tb, func(tb testing.TB) {
		for left := size; left > 0; left -= part {
			payload := randomBytes(part)
			_, _ = sent.Write(payload) // never fails
			c.send(tb, testbed.Frame{Fin: left == part, Opcode: testbed.Binary, Payload: payload})
		}
	})
	received := sha256.New()
	for left := size; left > 0; left -= part {
		f, err := readFrame(c.in)
		if err != nil {
			tb.Fatalf("reading, with %d bytes to come: %v", left, err)
		}
		_, _ = received.Write(f.Payload) // never fails
	}
	wait()
	if string(sent.Sum(nil)) != string(received.Sum(nil)) {
		tb.Errorf("%d bytes came back different", size)
	}
}

// TestConnectIdle keeps tunnels silent, and talks one way only, for longer than
// the idle timeouts of the server, and of a handler in front that sets its own.
func TestConnectIdle(t *testing.T) {
	t.Parallel()
	const silence = 3 * time.Second           // three times of those of streaming
	ups := make(map[string]*testbed.Upstream) // each with a client of its own
	var routes []string
	fronts := map[string]string{
		"server":  "",
		"handler": "timeouts {\nread_timeout 1s\nwrite_timeout 1s\n}\n",
	}
	for name := range connectors {
		for front, directive := range fronts {
			path := "/" + front + "/" + name
			ups[path] = testbed.NewUpstream(t, nil)
			routes = append(routes, "handle "+path+" {\n"+directive+proxyTo(ups[path].Addr)+"\n}")
		}
	}
	idle := strings.Replace(streaming, "timeouts {", "timeouts {\nidle 1s", 1) // of whole connections
	c := startCaddy(t, site(strings.Join(routes, "\n"), idle))
	test := func(t *testing.T, path, name string) {
		t.Helper()
		client, upstream, _ := accept(t, ups[path], connectors[name](t, c), webSocket(path))
		upstream.ExpectNothing(silence)
		upstream.WriteFrame(testbed.NewFrame(testbed.Text, "pushed"))
		client.expect(t, testbed.NewFrame(testbed.Text, "pushed"))
		for range 4 { // the client only listens
			upstream.WriteFrame(testbed.NewFrame(testbed.Text, "pushed"))
			client.expect(t, testbed.NewFrame(testbed.Text, "pushed"))
			upstream.ExpectNothing(silence / 8)
		}
		client.send(t, testbed.NewFrame(testbed.Text, "hello"))
		upstream.ExpectFrame(testbed.Text, "hello")
		for range 4 { // the upstream only listens
			client.send(t, testbed.NewFrame(testbed.Text, "more"))
			upstream.ExpectFrame(testbed.Text, "more")
			upstream.ExpectNothing(silence / 8)
		}
		upstream.WriteFrame(testbed.NewFrame(testbed.Text, "hello"))
		client.expect(t, testbed.NewFrame(testbed.Text, "hello"))
		upstream.Close()
		client.expectEnd(t)
	}
	for name := range connectors {
		for front := range fronts {
			t.Run(front+"'s/"+name, func(t *testing.T) {
				t.Parallel() // and only then it connects, as it may have to wait
				test(t, "/"+front+"/"+name, name)
			})
		}
	}
}

// TestConnectRefusals are the requests that become no tunnel.
func TestConnectRefusals(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	forbidding := testbed.NewUpstream(t, testbed.Respond(
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nX-Why: because\r\n\r\nforbidden"))
	accepting := testbed.NewUpstream(t, testbed.Respond("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	c := startStreaming(t, strings.Join([]string{
		"handle /forbidding {\n" + proxyTo(forbidding.Addr) + "\n}",
		"handle /accepting {\n" + proxyTo(accepting.Addr) + "\n}",
		"handle /nobody {\n" + proxyTo(testbed.RefusedAddr(t)) + "\n}",
		"handle {\n" + proxyTo(up.Addr, "origins https://example.com") + "\n}",
	}, "\n"))
	version := func(v ...string) request {
		r := request{protocol: "websocket", path: "/"}
		for _, v := range v {
			r.fields = append(r.fields, [2]string{"sec-websocket-version", v})
		}
		return r
	}
	otherProtocol := webSocket("/")
	otherProtocol.protocol = "connect-udp"
	for name, test := range map[string]struct {
		req    request
		status int
		header [2]string
		body   string
	}{
		"upstream refuses":         {req: webSocket("/forbidding"), status: 403, header: [2]string{"X-Why", "because"}, body: "forbidden"},
		"upstream answers 200":     {req: webSocket("/accepting"), status: 502},
		"no upstream":              {req: webSocket("/nobody"), status: 502},
		"no version":               {req: version(), status: 400, header: [2]string{"Sec-WebSocket-Version", "13"}},
		"version 8":                {req: version("8"), status: 400, header: [2]string{"Sec-WebSocket-Version", "13"}},
		"differing versions":       {req: version("13", "8"), status: 400, header: [2]string{"Sec-WebSocket-Version", "13"}},
		"origin":                   {req: webSocket("/", [2]string{"origin", "https://example.org"}), status: 403},
		"another protocol":         {req: otherProtocol, status: 501},
		"CONNECT without protocol": {req: request{fields: version("13").fields}, status: 405, header: [2]string{"Allow", "GET"}},
	} {
		t.Run(name, func(t *testing.T) {
			eachConnector(t, c, func(t *testing.T, open opener) {
				s := open(t, test.req)
				status, header := s.response(t)
				if status != test.status {
					t.Errorf("status %d, want %d", status, test.status)
				}
				if got := header.Get(test.header[0]); got != test.header[1] {
					t.Errorf("%s is %q, want %q", test.header[0], got, test.header[1])
				}
				body, err := io.ReadAll(streamReader{s})
				if err != nil || string(body) != test.body {
					t.Errorf("body %q, %v, want %q", body, err, test.body)
				}

				// The connection is as good as before.
				openWebSocket(t, open, webSocket("/")).echo(t, "hello")
			})
		})
	}
}

// TestConnectWithALength has a length that means nothing, whatever it is. What is
// no number, HTTP/3's server refuses itself.
func TestConnectWithALength(t *testing.T) {
	t.Parallel()
	c := startStreaming(t, proxyTo(testbed.RefusedAddr(t)))
	for _, length := range []string{"0", "5", "five"} {
		for _, name := range []string{"h2", "h2c"} {
			s := connectors[name](t, c)(t, webSocket("/", [2]string{"content-length", length}))
			if status, _ := s.response(t); status != http.StatusBadRequest {
				t.Errorf("%s: the answer to %s is %d, want 400", name, length, status)
			}
		}
	}
	malformed := message("handshake refused", "cause", "malformed", "error", "has a Content-Length")
	c.log.wait(t, 6, malformed)
	for i, length := range []string{"0", "5"} {
		dialQUIC(t, c).sendWebSocket(t, c, [2]string{"content-length", length})
		c.log.wait(t, 7+i, malformed)
	}
}

// TestHintsOverStreams has an upstream send hints before its 101. They have their own
// fields only, and leave nothing in the final response.
func TestHintsOverStreams(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, nil)
	c := startStreaming(t, "header X-Earlier 1\n"+proxyTo(up.Addr))
	eachConnector(t, c, func(t *testing.T, open opener) {
		s := open(t, webSocket("/"))
		u := up.Next(t)
		req := u.ReadRequest()
		u.Send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n")
		u.Accept(req)
		status, header := s.response(t)
		hints := s.hints()
		if len(hints) != 1 || hints[0].Get("Link") != "</a.css>" || len(hints[0]) != 1 {
			t.Errorf("the hints are %v, want the upstream's own field", hints)
		}
		if status != http.StatusOK || header.Get("Link") != "" || header.Get("X-Earlier") != "1" {
			t.Errorf("the response is %d %v", status, header)
		}
		u.Tolerate()
		s.disconnect(t)
		u.Drain()
	})
}

// TestTargetsOverStreams has clients end the request line inside of their path, which
// neither HTTP/2 nor HTTP/3 forbids by itself.
func TestTargetsOverStreams(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startStreaming(t, proxyTo(up.Addr))
	eachConnector(t, c, func(t *testing.T, open opener) {
		if status, _ := open(t, webSocket("/ws?a HTTP/1.0")).response(t); status != http.StatusBadRequest {
			t.Errorf("the status is %d, want 400", status)
		}
	})
	if n := up.Accepted(); n != 0 {
		t.Errorf("the upstream got %d connections, want none", n)
	}
}

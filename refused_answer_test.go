package websocketproxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestOtherAnswersArePassedOn(t *testing.T) {
	tests := map[string]struct {
		raw    string // of the upstream
		status string
		body   string
		fields map[string]string
	}{
		"401": {
			"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Bearer\r\n" +
				"Content-Length: 5\r\nContent-Type: text/x\r\n\r\nlogin",
			"401 Unauthorized", "login",
			map[string]string{"WWW-Authenticate": "Basic realm=\"a\" + Bearer", "Content-Type": "text/x", "Content-Length": "5"},
		},
		"302": {
			"HTTP/1.1 302 Found\r\nLocation: https://example.com/login\r\nContent-Length: 0\r\n\r\n",
			"302 Found", "",
			map[string]string{"Location": "https://example.com/login", "Content-Length": "0"},
		},
		"200": {
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 OK", "ok", map[string]string{"Content-Length": "2"},
		},
		"204": {
			"HTTP/1.1 204 No Content\r\n\r\n", "204 No Content", "", map[string]string{"Content-Length": ""},
		},
		"304": {
			"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", "304 Not Modified", "", map[string]string{"Etag": "x"},
		},
		"404": {
			"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found", "404 Not Found", "not found",
			map[string]string{"Content-Length": "9"},
		},
		"426 keeps Upgrade": {
			"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13, 8\r\n" +
				"Content-Length: 0\r\n\r\n",
			"426 Upgrade Required", "",
			map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", handshake.FieldVersion: "13, 8"},
		},
		"426 without Upgrade": {
			"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
			"426 Upgrade Required", "",
			map[string]string{"Upgrade": "", "Connection": ""},
		},
		"others do not keep Upgrade": {
			"HTTP/1.1 400 Bad Request\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
			"400 Bad Request", "",
			map[string]string{"Upgrade": "", "Connection": ""},
		},
		"503": {
			"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
			"503 Service Unavailable", "",
			map[string]string{"Retry-After": "7"},
		},
		"a status without a name": {
			"HTTP/1.1 799 \r\nContent-Length: 1\r\n\r\nx", "799", "x", nil,
		},
		"hop-by-hop fields": {
			"HTTP/1.1 403 Forbidden\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTrailer: X\r\n" +
				"Proxy-Authenticate: Basic\r\nAlt-Svc: h2\r\nContent-Length: 0\r\n\r\n",
			"403 Forbidden", "",
			map[string]string{
				"X-Hop": "", "Keep-Alive": "", "Proxy-Authenticate": "", "Alt-Svc": "", "Trailer": "", "Connection": "",
			},
		},
		"the upstream's own fields": {
			"HTTP/1.1 403 Forbidden\r\nServer: upstream\r\nVia: 1.1 other\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n" +
				"Content-Length: 0\r\n\r\n",
			"403 Forbidden", "",
			map[string]string{
				"Server": "upstream", "Via": "1.1 other + 1.1 Caddy", "Set-Cookie": "a=1 + b=2",
			},
		},
		"HTTP/1.0": {
			"HTTP/1.0 403 Forbidden\r\n\r\nuntil the end", "403 Forbidden", "until the end",
			map[string]string{"Via": "1.0 Caddy", "Content-Length": ""},
		},
		"a body until the end": {
			"HTTP/1.1 403 Forbidden\r\n\r\nuntil the end", "403 Forbidden", "until the end",
			map[string]string{"Via": "1.1 Caddy", "Content-Length": ""},
		},
		"a chunked body": {
			"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n",
			"403 Forbidden", "abcde",
			map[string]string{"Content-Length": ""},
		},
		"more than its length": {
			"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\n\r\n", "403 Forbidden", "no", nil,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.Respond(test.raw))
			p := proxyTo(t, up.Addr)
			c := testbed.Dial(t, p.Addr)
			var status int
			if _, err := fmt.Sscan(test.status, &status); err != nil {
				t.Fatal(err)
			}
			line := p.expectRefusal(causeUpstreamRefused, status, func() {
				c.Send(testbed.HandshakeRequest("/", "example.com"))
				resp := c.Response()
				if got := strings.TrimSpace(resp.Status); got != test.status && !strings.HasPrefix(got, test.status+" status code") {
					t.Errorf("status is %q, want %q", got, test.status)
				}
				if body := c.Body(resp); body != test.body {
					t.Errorf("body is %q, want %q", body, test.body)
				}
				expectStatus(t, resp, status, notFromNext(test.fields))
			})
			expectFields(t, line, map[string]any{"upstream": up.Addr})
			expectOrdinary(t, c)
			up.WaitOpen(t, 0)
			if n := tunnelsOf(up.Addr); n != 0 {
				t.Errorf("%d tunnels are counted, want 0", n)
			}
		})
	}
}

// An upstream may leave its connection open after an answer that is complete.
func TestConnectionOfAnotherAnswerIsClosed(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.RespondKeepOpen("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"))
	p := newProxy(t, with(t, up.Addr, `{"timeouts": {"idle": -1, "write": -1}}`))
	c := testbed.Dial(t, p.Addr)
	for range 2 {
		expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusForbidden, nil)
		up.WaitOpen(t, 0)
	}
}

func TestHeaderDownOnOtherAnswers(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Respond("HTTP/1.1 403 Forbidden\r\nX-Secret: 1\r\nContent-Length: 0\r\n\r\n"))
	p := newProxy(t, &Handler{
		Upstreams: []*Upstream{{Dial: up.Addr}},
		Headers: &headers.Handler{Response: &headers.RespHeaderOps{HeaderOps: &headers.HeaderOps{
			Delete: []string{"X-Secret"}, Set: http.Header{"X-Set": {"1"}},
		}}},
	})
	expectAnswer(t, testbed.Dial(t, p.Addr), testbed.HandshakeRequest("/", "example.com"), http.StatusForbidden,
		map[string]string{"X-Secret": "", "X-Set": "1"})
}

func TestBodyOfAnotherAnswerIsStreamed(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	u := up.Next(t)
	u.ReadRequest()
	u.Send("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
	resp := c.Response()
	first := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
		t.Fatalf("got %q, %v before the rest was sent, want first", first, err)
	}
	chunk := strings.Repeat("0123456789abcdef", 4<<10) // larger than every buffer on the way
	wait := testbed.Go(t, func(testing.TB) {
		for range 32 {
			u.Send(fmt.Sprintf("%x\r\n%s\r\n", len(chunk), chunk))
		}
		u.Send("0\r\n\r\n")
	})
	if rest := c.Body(resp); rest != strings.Repeat(chunk, 32) {
		t.Errorf("the %d bytes that follow are not those that were sent", len(rest))
	}
	wait()
	expectOrdinary(t, c)
	u.ExpectClosed()
}

func TestTruncatedBodyAbortsTheResponse(t *testing.T) {
	for name, raw := range map[string]string{
		"Content-Length": "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nshort",
		"chunked":        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n5\r\nsh",
		"no last chunk":  "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
		"wrong chunk":    "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nxyz\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.Respond(raw))
			p := proxyTo(t, up.Addr)
			c := testbed.Dial(t, p.Addr)
			p.expectRefusal(causeUpstreamRefused, http.StatusForbidden, func() {
				c.Send(testbed.HandshakeRequest("/", "example.com"))
				resp := c.Response()
				body, err := io.ReadAll(resp.Body)
				if !strings.HasPrefix(string(body), "short") || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("got %q, %v, want short and an unexpected end", body, err)
				}
			})
			up.WaitOpen(t, 0)
			if n := tunnelsOf(up.Addr); n != 0 {
				t.Errorf("%d tunnels are counted, want 0", n)
			}
		})
	}
}

func TestClientThatLeavesABodyEndsTheUpstreams(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	for name, leave := range map[string]func(*testbed.Client){
		"close": func(c *testbed.Client) { c.Close() },
		"reset": func(c *testbed.Client) { c.Reset() },
	} {
		t.Run(name+" while the upstream is silent", func(t *testing.T) {
			c, u := startBody(t, p, up)
			leave(c)
			u.ExpectClosed()
		})
		t.Run(name+" while the upstream sends", func(t *testing.T) {
			c, u := startBody(t, p, up)
			leave(c)
			chunk := []byte("10000\r\n" + strings.Repeat("x", 1<<16) + "\r\n")
			var err error
			for err == nil {
				_, err = u.Write(chunk)
			}
		})
	}
}

// startBody returns the two ends of an answer whose body has begun.
func startBody(t *testing.T, p *testProxy, up *testbed.Upstream) (*testbed.Client, *testbed.Conn) {
	t.Helper()
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	u := up.Next(t)
	u.ReadRequest()
	u.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
	if _, err := io.ReadFull(c.Response().Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return c, u
}

func TestSilentBodyEndsWithTheIdleTimeout(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.RespondKeepOpen("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst"))
	p := newProxy(t, with(t, up.Addr, `{"timeouts": {"idle": 50000000}}`))
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	if body, err := io.ReadAll(c.Response().Body); string(body) != "first" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v, want first and an unexpected end", body, err)
	}
	up.WaitOpen(t, 0)
}

func TestBodyWithoutAReaderEndsWithTheWriteTimeout(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, with(t, up.Addr, `{"timeouts": {"write": 50000000}}`))
	_, u := startBody(t, p, up)
	chunk := []byte("10000\r\n" + strings.Repeat("x", 1<<16) + "\r\n")
	var err error
	for err == nil {
		_, err = u.Write(chunk)
	}
}

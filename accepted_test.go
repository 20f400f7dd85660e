package websocketproxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// dates are replaced before heads are compared.
var dates = regexp.MustCompile(`Date: [^\r]*GMT`)

// accepted performs a handshake and returns the head of the 101.
func (p *testProxy) accepted(tb testing.TB, extra ...string) (head string, resp *http.Response) {
	tb.Helper()
	c := testbed.Dial(tb, p.Addr)
	resp = c.Handshake("/", extra...)
	c.CloseHandshake(1000)
	c.Close()
	return dates.ReplaceAllString(c.RawHead(), "Date: now"), resp
}

func TestSwitchingProtocolsOnTheWire(t *testing.T) {
	t.Run("as short as possible", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.Echo)
		head, _ := proxyTo(t, up.Addr).accepted(t)
		expectHead(t, head,
			"HTTP/1.1 101 Switching Protocols",
			"Connection: Upgrade",
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", // RFC 6455 section 1.3
			"Upgrade: websocket",
			"Via: 1.1 Caddy",
			"Date: now",
		)
	})
	t.Run("with all that an upstream may say", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.EchoWith(
			"upgrade: WebSocket",
			"connection: keep-alive, Upgrade, X-Hop",
			"sec-websocket-protocol: superchat",
			"sec-websocket-extensions: permessage-deflate; server_no_context_takeover",
			"Date: Sun, 06 Nov 1994 08:49:37 GMT",
			"Server: upstream",
			"Set-Cookie: a=1",
			"Set-Cookie: b=2",
			"Content-Length: 5",
			"Keep-Alive: timeout=5",
			"X-Hop: 1",
			"X-Upstream: 1",
			"Via: 1.1 other",
		))
		head, _ := proxyTo(t, up.Addr).accepted(t,
			"Sec-WebSocket-Protocol: chat, superchat",
			"Sec-WebSocket-Extensions: foo, permessage-deflate; client_max_window_bits")
		expectHead(t, head,
			"HTTP/1.1 101 Switching Protocols",
			"Connection: Upgrade",
			"Date: now",
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
			"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover",
			"Sec-WebSocket-Protocol: superchat",
			"Server: upstream",
			"Set-Cookie: a=1",
			"Set-Cookie: b=2",
			"Upgrade: websocket",
			"Via: 1.1 other",
			"Via: 1.1 Caddy",
			"X-Upstream: 1",
		)
	})
	t.Run("with chunks announced", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.EchoWith("Transfer-Encoding: chunked"))
		head, _ := proxyTo(t, up.Addr).accepted(t)
		if strings.Contains(head, "chunked") {
			t.Errorf("got:\n%s", head)
		}
	})
}

func TestHeaderDown(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.EchoWith("X-Delete: 1", "X-Replace: abc", "X-Add: some"))
	tests := map[string]struct {
		ops headers.RespHeaderOps
		has []string // lines
		not []string // parts
	}{
		"sets, adds, deletes and replaces": {
			ops: headers.RespHeaderOps{HeaderOps: &headers.HeaderOps{
				Set:     http.Header{"X-Set": {"{http.reverse_proxy.upstream.hostport}"}},
				Add:     http.Header{"X-Add": {"more"}},
				Delete:  []string{"X-Delete"},
				Replace: map[string][]headers.Replacement{"X-Replace": {{Search: "b", Replace: "-"}}},
			}},
			has: []string{"X-Set: " + up.Addr, "X-Add: some", "X-Add: more", "X-Replace: a-c"},
			not: []string{"X-Delete"},
		},
		"cannot break the handshake": {
			ops: headers.RespHeaderOps{HeaderOps: &headers.HeaderOps{
				Set: http.Header{
					"Upgrade": {"h2c"}, "Connection": {"close"}, "Sec-Websocket-Accept": {"x"}, "Content-Length": {"5"},
					"Transfer-Encoding": {"chunked"},
				},
				Add:    http.Header{"Sec-Websocket-Accept": {"y"}},
				Delete: []string{"Sec-WebSocket-*"},
			}},
			has: []string{
				"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
			},
			not: []string{"h2c", "close", ": x", ": y", "Length", "chunked", "Websocket"},
		},
		"for another status": {
			ops: headers.RespHeaderOps{
				HeaderOps: &headers.HeaderOps{Set: http.Header{"X-Set": {"1"}}},
				Require:   &caddyhttp.ResponseMatcher{StatusCode: []int{403}},
			},
			not: []string{"X-Set"},
		},
		"for this status": {
			ops: headers.RespHeaderOps{
				HeaderOps: &headers.HeaderOps{Set: http.Header{"X-Set": {"1"}}},
				Require:   &caddyhttp.ResponseMatcher{StatusCode: []int{101}},
			},
			has: []string{"X-Set: 1"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := proxyWithHeaders(t, up.Addr, &headers.Handler{Response: &test.ops})
			head, _ := p.accepted(t)
			for _, line := range test.has {
				if strings.Count(head, "\r\n"+line+"\r\n") != 1 {
					t.Errorf("the line %q is not there once", line)
				}
			}
			for _, part := range test.not {
				if strings.Contains(head, part) {
					t.Errorf("%q is there", part)
				}
			}
			if t.Failed() {
				t.Log(head)
			}
		})
	}
}

// What reverse_proxy balances by cookie has to get the same cookie here.
const cookiePolicy = `{"load_balancing": {"selection_policy":
	{"policy": "cookie", "name": "lb", "secret": "s", "fallback": {"policy": "first"}}}}`

func TestCookieOfTheSelectionPolicy(t *testing.T) {
	failing := testbed.NewUpstream(t, testbed.CloseAfterHead)
	up := testbed.NewUpstream(t, testbed.EchoWith("Set-Cookie: own=1"))
	mac := hmac.New(sha256.New, []byte("s"))
	mac.Write([]byte(up.Addr))
	sticky := "lb=" + hex.EncodeToString(mac.Sum(nil))
	cookies := []string{"own=1", sticky + "; Path=/; HttpOnly; SameSite=Lax"}
	t.Run("beside the upstream's own", func(t *testing.T) {
		_, resp := newProxy(t, with(t, up.Addr, cookiePolicy)).accepted(t)
		if got := resp.Header.Values("Set-Cookie"); !slices.Equal(got, cookies) {
			t.Errorf("cookies are %q, want %q", got, cookies)
		}
	})
	t.Run("none if the client has it", func(t *testing.T) {
		_, resp := newProxy(t, with(t, up.Addr, cookiePolicy)).accepted(t, "Cookie: "+sticky)
		if got := resp.Header.Values("Set-Cookie"); len(got) != 1 || got[0] != "own=1" {
			t.Errorf("cookies are %q, want only the upstream's own", got)
		}
	})
	t.Run("none for an upstream that failed", func(t *testing.T) {
		h := with(t, failing.Addr, cookiePolicy)
		h.Upstreams = append(h.Upstreams, &Upstream{Dial: up.Addr})
		_, resp := newProxy(t, h).accepted(t)
		if got := resp.Header.Values("Set-Cookie"); !slices.Equal(got, cookies) {
			t.Errorf("cookies are %q, want %q", got, cookies)
		}
		if n := failing.Accepted(); n != 1 {
			t.Errorf("the failing upstream got %d connections, want 1", n)
		}
	})
}

func TestCookieOfTheSelectionPolicyOnOtherAnswers(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))
	p := newProxy(t, with(t, up.Addr, cookiePolicy))
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	resp := c.Response()
	if got := resp.Header.Values("Set-Cookie"); len(got) != 1 || !strings.HasPrefix(got[0], "lb=") {
		t.Errorf("cookies are %q, want lb", got)
	}
}

func TestNoCookieWithoutAnAnswer(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.CloseAfterHead)
	p := newProxy(t, with(t, up.Addr, cookiePolicy))
	c := testbed.Dial(t, p.Addr)
	expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusBadGateway,
		notFromNext(map[string]string{"Set-Cookie": "", "Server": "Caddy"}))
}

// With an access log, Caddy's recorder is between the handler and the server.
func TestHandshakeThroughAResponseRecorder(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.EchoWith("X-Upstream: 1"))
	p := proxyTo(t, up.Addr)
	statuses := make(chan int, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := caddyhttp.NewResponseRecorder(w, nil, nil)
		p.ServeHTTP(rec, r)
		statuses <- rec.Status()
	}))
	t.Cleanup(server.Close)
	c := testbed.Dial(t, server.Listener.Addr().String())
	if got := c.Handshake("/").Header.Get("X-Upstream"); got != "1" {
		t.Errorf("X-Upstream is %q, want 1", got)
	}
	if got := <-statuses; got != http.StatusSwitchingProtocols {
		t.Errorf("the recorder has seen status %d, want 101", got)
	}
	c.Echo("the handler has returned")
	c.CloseHandshake(1000)
}

// hidden is a response writer of which only the interface is known, as badly
// written handlers make them.
type hidden struct{ http.ResponseWriter }

func TestClientsConnectionThatIsHidden(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.RespondKeepOpen(switching()))
	p := proxyTo(t, up.Addr)
	r := parse(t, testbed.HandshakeRequest("/", "example.com")).WithContext(t.Context())
	r.RemoteAddr = "127.0.0.1:1234"
	w := httptest.NewRecorder()
	line := p.expectRefusal(causeInternal, http.StatusInternalServerError, func() {
		p.ServeHTTP(hidden{w}, r)
	})
	expectError(t, line, "Unwrap")
	expectStatus(t, w.Result(), http.StatusInternalServerError, notFromNext(map[string]string{handshake.FieldAccept: "", "Via": ""}))
	up.WaitOpen(t, 0)
	if n := tunnelsOf(up.Addr); n != 0 {
		t.Errorf("%d tunnels are counted, want 0", n)
	}
}

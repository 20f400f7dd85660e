package integration

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// exchange sends a request head as it is and returns the answer, which is not
// to be a 101.
func exchange(t *testing.T, c *caddy, head string) (*http.Response, string) {
	t.Helper()
	client := c.dial(t, false)
	client.Send(head)
	resp := client.Response()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		t.Fatalf("got a 101 for:\n%s", head)
	}
	return resp, client.Body(resp)
}

// TestComposition has WebSockets beside everything else on one site.
func TestComposition(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "web "+r.URL.Path+" "+r.Header.Get("Upgrade"))
	}))
	t.Cleanup(web.Close)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "page.txt"), []byte("a page"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCaddy(t, site(`
		root `+root+`
		respond /hello "hello"
		handle /matched {
			@ws websocket
			respond @ws "the matcher matches" 418
			respond "the matcher does not match"
		}
		reverse_proxy /api/* `+web.Listener.Addr().String()+`
		file_server
		`+proxyTo(up.Addr)))

	for _, path := range []string{"/", "/api/socket", "/page.txt"} {
		for _, scheme := range schemes {
			client := c.dial(t, scheme == "wss")
			client.Handshake(path)
			client.Echo("through " + path)
			client.CloseHandshake(1000)
		}
	}
	for path, want := range map[string]string{
		"/hello":    "hello",
		"/api/data": "web /api/data ",
		"/page.txt": "a page",
		"/matched":  "the matcher does not match",
	} {
		if status, body := c.get(t, path); status != http.StatusOK || body != want {
			t.Errorf("GET %s: %d %q, want %q", path, status, body, want)
		}
	}
	if status, _ := c.get(t, "/missing"); status != http.StatusNotFound {
		t.Errorf("GET of a missing file: %d", status)
	}

	// What is no upgrade to WebSocket goes on as the ordinary request it is.
	for name, extra := range map[string]string{
		"not named in Connection": "Connection: keep-alive",
		"another protocol":        "Upgrade: h2c",
	} {
		resp, body := exchange(t, c, testbed.HandshakeRequest("/api/data", "127.0.0.1", extra))
		if resp.StatusCode != http.StatusOK || body != "web /api/data " {
			t.Errorf("%s: %d %q", name, resp.StatusCode, body)
		}
	}
	// What is one never goes on, also if it is refused.
	resp, body := exchange(t, c, testbed.HandshakeRequest("/api/data", "127.0.0.1", "Sec-WebSocket-Version: 8"))
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a handshake of another version: %d %q", resp.StatusCode, body)
	}
}

// TestMatcher splits routes by the matcher, over all versions of HTTP.
func TestMatcher(t *testing.T) {
	t.Parallel()
	c := startStreaming(t, `
		@ws websocket
		respond @ws "websocket" 418
		respond "other"`)
	if status, body := c.get(t, "/"); status != http.StatusOK || body != "other" {
		t.Errorf("GET: %d %q", status, body)
	}
	resp, body := exchange(t, c, testbed.HandshakeRequest("/", "127.0.0.1"))
	if resp.StatusCode != http.StatusTeapot || body != "websocket" {
		t.Errorf("handshake: %d %q", resp.StatusCode, body)
	}
	eachConnector(t, c, func(t *testing.T, open opener) {
		if status, _ := open(t, webSocket("/")).response(t); status != http.StatusTeapot {
			t.Errorf("extended CONNECT: %d", status)
		}
		other := webSocket("/")
		other.protocol = "connect-udp"
		if status, _ := open(t, other).response(t); status != http.StatusOK {
			t.Errorf("extended CONNECT for another protocol: %d", status)
		}
	})
}

// TestMatcherOfHTTP1IsWarnedOf has the matcher that Caddy's documentation shows for
// WebSockets.
func TestMatcherOfHTTP1IsWarnedOf(t *testing.T) {
	t.Parallel()
	const warning = "do not have, so these go to the next handler"
	up := testbed.NewUpstream(t, testbed.Echo)
	config := func(matcher string) string {
		return "{\nauto_https off\n}\nhttp://{$HTTP} {\n" + matcher + "\nwebsocket_proxy @websockets " + up.Addr + "\n}\n"
	}
	bad := write(t, config("@websockets {\nheader Connection *Upgrade*\nheader Upgrade websocket\n}"))
	good := write(t, config("@websockets websocket"))
	for _, command := range []string{"adapt", "validate"} {
		for file, warned := range map[string]bool{bad: true, good: false} {
			code, _, stderr := runCaddy(t, command, "--config", file, "--adapter", "caddyfile")
			if code != 0 || strings.Contains(stderr, warning) != warned {
				t.Errorf("%s: code %d, %s, want a warning: %t", command, code, stderr, warned)
			}
			if warned && (!strings.Contains(stderr, `"line":9`) || !strings.Contains(stderr, "the field Connection")) {
				t.Errorf("%s does not say where or why: %s", command, stderr)
			}
		}
	}
	// A running Caddy says it in its log.
	c := startCaddy(t, site(proxyTo(up.Addr)))
	c.reload(t, site("@websockets header Upgrade websocket\nwebsocket_proxy @websockets "+up.Addr))
	c.log.waitOne(t, func(e entry) bool {
		return strings.Contains(e.str("msg"), warning) && e.str("asks_for") == "the field Upgrade"
	})
}

// TestErrorRoutes lets the site answer for our refusals.
func TestErrorRoutes(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, site(`
		`+proxyTo(testbed.RefusedAddr(t), "origins https://example.com")+`
		handle_errors {
			header X-Handled yes
			respond "sorry: {err.status_code}, {err.message}"
		}`))
	for name, test := range map[string]struct {
		head   string
		status int
		body   string
	}{
		"no upstream": {testbed.HandshakeRequest("/", "127.0.0.1"), 502, "sorry: 502, "},
		"version": {
			testbed.HandshakeRequest("/", "127.0.0.1", "Sec-WebSocket-Version: 8"), 426, "sorry: 426, ",
		},
		"origin": {testbed.HandshakeRequest("/", "127.0.0.1", "Origin: http://evil"), 403, "sorry: 403, "},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := exchange(t, c, test.head)
			if resp.StatusCode != test.status || !strings.HasPrefix(body, test.body) ||
				resp.Header.Get("X-Handled") != "yes" {
				t.Errorf("got %d %q %v, want %d and the site's page", resp.StatusCode, body, resp.Header, test.status)
			}
			if test.status == http.StatusUpgradeRequired && resp.Header.Get("Sec-WebSocket-Version") != "13" {
				t.Errorf("the header has lost the version: %v", resp.Header)
			}
		})
	}
}

// TestUnavailable fills an upstream up. The refusal is the site's to answer.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo("", "upstream "+up.Addr+" max_tunnels 1", "queue off")+`
		handle_errors 503 {
			respond "all seats taken"
		}`))
	first := c.dial(t, false)
	first.Handshake("/")
	first.Echo("hello")
	for range 3 {
		resp, body := exchange(t, c, testbed.HandshakeRequest("/", "127.0.0.1"))
		if resp.StatusCode != http.StatusServiceUnavailable || body != "all seats taken" ||
			resp.Header.Get("Retry-After") == "" {
			t.Errorf("got %d %q %v, want 503, the site's page and Retry-After", resp.StatusCode, body, resp.Header)
		}
	}
	first.CloseHandshake(1000)
	first.Close()
	c.log.wait(t, 1, tunnelClosed)
	second := c.dial(t, false)
	second.Handshake("/")
	second.Echo("hello")
}

// TestAuthentication has basic_auth in front, and a secret that only the proxy
// knows behind.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	const (
		good = "Authorization: Basic Ym9iOnNlY3JldA==" // bob:secret
		bad  = "Authorization: Basic Ym9iOndyb25n"
	)
	up := testbed.NewUpstream(t, nil)
	_, hashed, _ := runCaddy(t, "hash-password", "--plaintext", "secret", "--bcrypt-cost", "4")
	c := startCaddy(t, site(`
		basic_auth {
			bob `+strings.TrimSpace(hashed)+`
		}
		`+proxyTo(up.Addr, "header_up -Authorization", "header_up X-User {http.auth.user.id}")))
	for _, extra := range [][]string{nil, {bad}} {
		resp, _ := exchange(t, c, testbed.HandshakeRequest("/", "127.0.0.1", extra...))
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("with %q: %d, want 401", extra, resp.StatusCode)
		}
	}
	if n := up.Accepted(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}

	client := c.dial(t, false)
	var got http.Header
	accepted := testbed.Go(t, func(tb testing.TB) { got = up.Next(tb).AcceptHandshake().Header })
	client.Handshake("/", good)
	accepted()
	if got.Get("X-User") != "bob" || got.Get("Authorization") != "" {
		t.Errorf("the upstream got X-User %q and Authorization %q", got.Get("X-User"), got.Get("Authorization"))
	}
}

package integration

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// asker sends a handshake for a path and returns the status of the answer.
type asker func(t *testing.T, path string) (status int)

// askers ask over each version of HTTP.
func askers(c *caddy) map[string]asker {
	byName := map[string]asker{
		"h1":       func(t *testing.T, path string) int { return askSocket(t, c.dial(t, false), path, "HTTP/1.1") },
		"h1 TLS":   func(t *testing.T, path string) int { return askSocket(t, c.dial(t, true), path, "HTTP/1.1") },
		"HTTP/1.0": func(t *testing.T, path string) int { return askSocket(t, c.dial(t, false), path, "HTTP/1.0") },
	}
	for name, connect := range connectors {
		byName[name] = func(t *testing.T, path string) int {
			t.Helper()
			s := connect(t, c)(t, webSocket(path))
			status, _ := s.response(t)
			s.cancel(t)
			return status
		}
	}
	return byName
}

func askSocket(t *testing.T, client *testbed.Client, path, version string) (status int) {
	t.Helper()
	defer client.Close()
	client.Send(strings.Replace(testbed.HandshakeRequest(path, "127.0.0.1"), "HTTP/1.1", version, 1))
	return client.Response().StatusCode
}

// TestRespondRefusesSockets has what people put in front of a site to refuse
// requests. It refuses those for sockets as well.
func TestRespondRefusesSockets(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startStreaming(t, proxyTo(up.Addr)+`
		@denied path /admin/*
		respond @denied 403
		respond /gone 410
		handle /handled {
			respond 418
		}`)
	for name, ask := range askers(c) {
		t.Run(name, func(t *testing.T) {
			for path, want := range map[string]int{
				"/admin/socket": http.StatusForbidden,
				"/admin/":       http.StatusForbidden,
				"/gone":         http.StatusGone,
				"/handled":      http.StatusTeapot,
			} {
				if status := ask(t, path); status != want {
					t.Errorf("%s: %d, want %d", path, status, want)
				}
			}
		})
	}
	if n := up.Accepted(); n != 0 {
		t.Errorf("%d of the refused handshakes have reached the upstream", n)
	}
	for _, scheme := range schemes {
		client := c.dial(t, scheme == "wss")
		client.Handshake("/admins")
		client.Echo("let in")
	}
	eachConnector(t, c, func(t *testing.T, open opener) {
		openWebSocket(t, open, webSocket("/admins")).echo(t, "let in")
	})
}

// TestHandleHasSocketsBesideACatchAll has a respond that would take everything.
func TestHandleHasSocketsBesideACatchAll(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startStreaming(t, `
		handle /ws* {
			`+proxyTo(up.Addr, "require_upgrade")+`
		}
		respond "nothing here" 404`)
	for name, ask := range askers(c) {
		t.Run(name, func(t *testing.T) {
			for path, want := range map[string]int{"/ws": opens(name), "/ws/chat": opens(name), "/": http.StatusNotFound} {
				if status := ask(t, path); status != want {
					t.Errorf("%s: %d, want %d", path, status, want)
				}
			}
		})
	}
}

// opens is the status of a handshake that succeeds, by the name of its asker.
func opens(name string) int {
	switch name {
	case "h1", "h1 TLS":
		return http.StatusSwitchingProtocols
	case "HTTP/1.0": // has no upgrade
		return http.StatusUpgradeRequired
	}
	return http.StatusOK
}

// otherwise are paths that are none of those in the examples.
var otherwise = []string{
	"/", "/chat", "/w/s", "/x/ws", "/ws/../chat", "/%2fx", "/;/ws", "/?/ws", "/index.php/ws", "/x/../chat",
}

// TestSocketPathHasManySpellings runs the example that has its sockets at one path.
func TestSocketPathHasManySpellings(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	web := newWeb(t)
	c := startStreaming(t, exampleBody(t, "../examples/from-nginx.Caddyfile", up.Addr, web.addr))
	for name, ask := range askers(c) {
		if name == "HTTP/1.0" {
			continue // gets a page of the path
		}
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{
				"/ws", "/ws/", "/ws/chat", "/ws%2f", "/ws%2Fchat", "/ws;x", "/ws.json", "/ws?a=b", "/WS/", "/%77s/",
				"//ws/", "/x/../ws/", "/./ws",
			} {
				if status := ask(t, path); status != opens(name) {
					t.Errorf("%s: %d, want %d", path, status, opens(name))
				}
			}
			for _, path := range otherwise {
				if status := ask(t, path); status != http.StatusForbidden {
					t.Errorf("%s: %d, want 403", path, status)
				}
			}
		})
	}
	web.expectNoHandshake(t, "all")
}

// TestExamplesLeaveNoSocketsToReverseProxy asks for sockets at all kinds of paths.
func TestExamplesLeaveNoSocketsToReverseProxy(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../examples/*.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	tested := 0
	for _, file := range files {
		up := testbed.NewUpstream(t, testbed.Echo)
		web := newWeb(t)
		body := exampleBody(t, file, up.Addr, web.addr)
		if !strings.Contains(body, "reverse_proxy "+web.addr) {
			continue
		}
		tested++
		t.Run(filepath.Base(file), func(t *testing.T) {
			c := startStreaming(t, body)
			for name, ask := range askers(c) {
				for _, path := range append(otherwise, "/ws", "/ws/", "/ws;x", "/ws%2f", "/WSS", "/wss/../chat") {
					ask(t, path)
				}
				web.expectNoHandshake(t, name)
			}
		})
	}
	if tested == 0 {
		t.Error("no example has a reverse_proxy")
	}
}

// web is the backend of a reverse_proxy. It accepts each handshake that it gets.
type web struct {
	addr       string
	handshakes atomic.Int64
}

func newWeb(tb testing.TB) *web {
	tb.Helper()
	w := new(web)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			w.handshakes.Add(1)
		}
		_, _ = io.WriteString(rw, "web")
	}))
	tb.Cleanup(server.Close)
	w.addr = server.Listener.Addr().String()
	return w
}

func (w *web) expectNoHandshake(tb testing.TB, from string) {
	tb.Helper()
	if n := w.handshakes.Swap(0); n != 0 {
		tb.Errorf("%d handshakes have passed reverse_proxy (%s)", n, from)
	}
}

// exampleBody is what an example says of its site, with local upstreams.
func exampleBody(tb testing.TB, file, upstream, web string) string {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	_, body, found := strings.Cut(string(text), "example.com {\n")
	if !found {
		tb.Fatalf("no site in %s", file)
	}
	body = strings.ReplaceAll(body, "wss://backend.example.net", "wss://"+upstream)
	return localUpstreams(strings.TrimSuffix(body, "}\n"), upstream, web)
}

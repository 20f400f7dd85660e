package integration

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// startPolled starts a backend that says who it is over HTTP, and echoes over
// WebSocket.
func startPolled(tb testing.TB) (addr string) {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	addr = ln.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(w, addr)
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // it has told the client
		}
		defer func() { _ = conn.CloseNow() }()
		for {
			typ, payload, err := conn.Read(r.Context())
			if err != nil || conn.Write(r.Context(), typ, payload) != nil {
				return
			}
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(ln) // until it is closed
	}()
	tb.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return addr
}

// poll does a request of a session as Socket.IO does them before and beside its
// WebSocket. It returns the backend, and the session's cookie.
func (c *caddy) poll(tb testing.TB, cookie string) (backend, cookieAfter string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(timeLimit(tb), http.MethodGet, "http://"+c.http+"/", nil)
	if err != nil {
		tb.Fatal(err)
	}
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		tb.Fatalf("polling: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatalf("polling: status %d, %v: %s", resp.StatusCode, err, body)
	}
	if set := resp.Cookies(); len(set) > 0 {
		cookie = set[0].Name + "=" + set[0].Value
	}
	return string(body), cookie
}

// TestPollingGoesWhereWebSocketsGo has sessions that poll and open a WebSocket,
// while an operator closes one of two backends to everybody.
func TestPollingGoesWhereWebSocketsGo(t *testing.T) {
	t.Parallel()
	backends := []string{startPolled(t), startPolled(t)}
	c := startCaddy(t, site(toldUpstream(strings.Join(backends, " "), "name chat", "lb_policy cookie")+`
reverse_proxy {
	dynamic websocket_proxy chat
	lb_policy cookie
}
`))
	cookies := make(map[string]string) // of a session at each backend
	for len(cookies) < len(backends) {
		backend, cookie := c.poll(t, "")
		cookies[backend] = cookie
	}
	for backend, cookie := range cookies {
		client := c.dial(t, false)
		if got := client.Handshake("/", "Cookie: "+cookie).Header.Get("X-Upstream"); got != backend {
			t.Errorf("the WebSocket of a session at %s is at %s", backend, got)
		}
		client.Echo("hello")
		client.Close()
	}
	shut, left := backends[0], backends[1]
	c.say(t, shut, "maint")
	for range 20 {
		if got, _ := c.poll(t, ""); got != left {
			t.Errorf("a new session is at %s, which is in maint", got)
		}
	}
	backend, cookie := c.poll(t, cookies[shut])
	if backend != left {
		t.Errorf("an old session is at %s, which is in maint", backend)
	}
	client := c.dial(t, false)
	if got := client.Handshake("/", "Cookie: "+cookie).Header.Get("X-Upstream"); got != left {
		t.Errorf("its WebSocket is at %s, want %s", got, left)
	}
	client.Close()
	c.say(t, left, "maint")
	if status, _ := c.get(t, "/"); status != http.StatusServiceUnavailable {
		t.Errorf("when both are in maint, polling has status %d", status)
	}
	c.say(t, shut, "ready")
	if backend, _ := c.poll(t, ""); backend != shut {
		t.Errorf("a session is at %s, want %s", backend, shut)
	}
}

// TestPollingWithoutThePool names a pool that does not exist.
func TestPollingWithoutThePool(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo(up.Addr, "name chat")+"\nreverse_proxy {\ndynamic websocket_proxy talk\n}"))
	if status, _ := c.get(t, "/"); status != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", status)
	}
	line := c.log.waitOne(t, message("failed getting dynamic upstreams; falling back to static upstreams"))
	if got := line.str("error"); !strings.Contains(got, "write `name talk` into") {
		t.Errorf("the log has the error %q", got)
	}
}

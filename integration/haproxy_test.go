package integration

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	gorilla "github.com/gorilla/websocket"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// haproxy is a running HAProxy before a Caddy, with which it speaks HTTP/2.
type haproxy struct {
	http, https string // its addresses
	cmd         *exec.Cmd
	exited      chan struct{}
}

// startHAProxy runs an HAProxy that takes WebSockets over HTTP/1.1 and HTTP/2, and
// passes all of them on to the https address of a Caddy as streams of HTTP/2
// (RFC 8441).
func startHAProxy(tb testing.TB, c *caddy) *haproxy {
	tb.Helper()
	binary := testbed.Program(tb, "haproxy")
	h := &haproxy{http: testbed.FreeAddr(tb), https: testbed.FreeAddr(tb), exited: make(chan struct{})}
	dir := tb.TempDir()
	config, pair := filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "pair.pem")
	var both []byte
	for _, file := range []string{c.certs.ServerCertFile, c.certs.ServerKeyFile} {
		content, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		both = append(both, content...)
	}
	text := fmt.Sprintf(`defaults
	mode http
	timeout connect 10s
	timeout client 60s
	timeout server 60s
	timeout tunnel 1h
frontend clients
	bind %s
	bind %s ssl crt %s alpn h2,http/1.1
	option forwardfor
	default_backend caddy
backend caddy
	http-reuse always
	server caddy %s ssl ca-file %s alpn h2 ws h2
`, h.http, h.https, pair, c.https, c.certs.CAFile)
	for file, content := range map[string][]byte{pair: both, config: []byte(text)} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	h.run(tb, binary, config)
	return h
}

func (h *haproxy) run(tb testing.TB, binary, config string) {
	tb.Helper()
	var said bytes.Buffer
	h.cmd = exec.Command(binary, "-db", "-f", config)
	h.cmd.Stdout, h.cmd.Stderr = &said, &said
	if err := h.cmd.Start(); err != nil {
		tb.Fatalf("starting HAProxy: %v", err)
	}
	go func() {
		_ = h.cmd.Wait() // it is killed
		close(h.exited)
	}()
	tb.Cleanup(func() {
		h.kill()
		if tb.Failed() {
			tb.Logf("HAProxy said:\n%s", &said)
		}
	})
	eventually(tb, "HAProxy takes connections", func() bool {
		select {
		case <-h.exited:
			tb.Fatalf("HAProxy has ended: %v", h.cmd.ProcessState)
		default:
		}
		conn, err := new(net.Dialer).DialContext(tb.Context(), "tcp", h.https)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

func (h *haproxy) kill() {
	_ = h.cmd.Process.Kill() // it may have ended
	<-h.exited
}

// TestHAProxyInFront has an HAProxy turn WebSockets of HTTP/1.1 into streams of
// HTTP/2, and pass on those that are streams already.
func TestHAProxyInFront(t *testing.T) {
	t.Parallel()
	needNode(t)
	s := startGorilla(t)
	c := startStreaming(t, proxyTo(s.addr))
	h := startHAProxy(t, c)
	for scheme, url := range map[string]string{"ws": "ws://" + h.http + "/", "wss": "wss://" + h.https + "/"} {
		for name, dial := range clients {
			l := &library{c: c, s: s, url: url, dial: dial}
			prefix := scheme + "/client=" + name + "/"
			t.Run(prefix+"messages", l.testMessages)
			t.Run(prefix+"compressed", l.testCompressed)
			t.Run(prefix+"pings", l.testPings)
			t.Run(prefix+"closes", l.testCloses)
		}
	}
	t.Run("over HTTP/2 on both sides", func(t *testing.T) {
		node(t, []string{"NODE_EXTRA_CA_CERTS=" + c.certs.CAFile}, "client.js", "wss://"+h.https+"/", "http2")
	})
	const each = 3 + 3*2 // tunnels of a client
	checkTunnels(t, c, "h2", each*(len(schemes)*len(clients)+1))
}

// TestHAProxyInFrontVanishes has one leave with tunnels of which nothing may stay.
func TestHAProxyInFrontVanishes(t *testing.T) {
	t.Parallel()
	const tunnels = 50
	s := startGorilla(t)
	c := startStreaming(t, proxyTo(s.addr))
	h := startHAProxy(t, c)
	for range tunnels {
		client := dialGorilla(t, "ws://"+h.http+"/", dialOptions{})
		client.write(t, gorilla.TextMessage, []byte("here"))
		if _, got := client.read(t); string(got) != "here" {
			t.Fatalf("got %q", got)
		}
	}
	if got := len(c.listedTunnels(t, "")); got != tunnels {
		t.Errorf("%d tunnels are listed, want %d", got, tunnels)
	}
	h.kill()
	for _, line := range c.log.wait(t, tunnels, tunnelClosed) {
		if line.str("protocol") != "h2" || line.str("closed_by") != "client" {
			t.Errorf("a tunnel of a client that has vanished ended with %v", line)
		}
	}
	for range tunnels {
		within(t, "the server saw the end", s.ends)
	}
	if got := len(c.listedTunnels(t, "")); got != 0 {
		t.Errorf("%d tunnels are left", got)
	}
}

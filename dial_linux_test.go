package websocketproxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// fullBacklog returns an address where connections are neither accepted nor
// refused: its backlog is full.
func fullBacklog(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(
		syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		syscall.Listen(fd, 0),
	); err != nil {
		t.Fatal(err)
	}
	local, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	in4, ok := local.(*syscall.SockaddrInet4)
	if !ok {
		t.Fatalf("bound to a %T", local)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(in4.Port))
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		cancel()
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
			return addr
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

func TestDialTimeout(t *testing.T) {
	addr := fullBacklog(t)
	t.Run("alone", func(t *testing.T) {
		p := newProxy(t, withTransport(t, addr, map[string]any{"dial_timeout": 50_000_000}))
		c := testbed.Dial(t, p.Addr)
		line := p.expectRefusal(causeDialTimeout, http.StatusGatewayTimeout, func() {
			expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusGatewayTimeout, notFromNext(nil))
		})
		expectFields(t, line, map[string]any{"upstream": addr})
		expectOrdinary(t, c)
	})
	t.Run("beside another upstream", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.Echo)
		h := withTransport(t, addr, map[string]any{"dial_timeout": 50_000_000})
		h.LoadBalancing = &LoadBalancing{SelectionPolicyRaw: []byte(`{"policy": "first"}`)}
		h.Upstreams = append(h.Upstreams, &Upstream{Dial: up.Addr})
		newProxy(t, h).accepted(t)
	})
	t.Run("later than the handshake's", func(t *testing.T) {
		h := withTransport(t, addr, map[string]any{"dial_timeout": 60_000_000_000})
		h.Timeouts = &Timeouts{Handshake: 50_000_000}
		p := newProxy(t, h)
		c := testbed.Dial(t, p.Addr)
		p.expectRefusal(causeDialTimeout, http.StatusGatewayTimeout, func() {
			expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusGatewayTimeout, notFromNext(nil))
		})
	})
}

func TestClientThatGoesDuringTheDial(t *testing.T) {
	addr := fullBacklog(t)
	p := newProxy(t, withTransport(t, addr, map[string]any{"dial_timeout": 60_000_000_000}))
	c := testbed.Dial(t, p.Addr)
	line := p.expectRefusal(causeClientGone, statusClientClosed, func() {
		c.Send(testbed.HandshakeRequest("/", "example.com"))
		eventually(t, "the upstream is chosen", func() bool { return tunnelsOf(addr) == 1 })
		c.Close()
	})
	expectFields(t, line, map[string]any{"upstream": addr})
	if n := tunnelsOf(addr); n != 0 {
		t.Errorf("%d tunnels are counted, want 0", n)
	}
}

package websocketproxy

import (
	"crypto/tls"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// openTunnel opens a tunnel to an upstream that is in the hands of the test.
func openTunnel(t *testing.T, timeouts *Timeouts) (*testProxy, *testbed.Client, *testbed.Conn) {
	t.Helper()
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, &Handler{Upstreams: upstreams(up.Addr), Timeouts: timeouts})
	c := testbed.Dial(t, p.Addr)
	return p, c, accept(t, up, c)
}

func TestIdleTimeoutEndsPolitely(t *testing.T) {
	p, c, u := openTunnel(t, &Timeouts{Idle: 1})
	c.ExpectClose(1001)
	c.WriteFrame(testbed.NewClose(1001, "as you wish"))
	if got := u.ExpectClose(1001); got != "as you wish" {
		t.Errorf("the upstream's Close says %q, want the client's answer", got)
	}
	u.ExpectEOF()
	c.ExpectEOF()
	u.WriteFrame(testbed.NewClose(1001, ""))
	u.Close()
	c.ExpectEOF()
	c.Close()
	expectFields(t, p.closedLine(), map[string]any{
		"reason":     "idle_timeout",
		"closed_by":  "proxy",
		"close_code": uint16(1001),
		"close_from": "proxy",
	})
}

func TestLifetimeEndsABusyTunnelBetweenItsFrames(t *testing.T) {
	p, c, u := openTunnel(t, &Timeouts{MaxLifetime: 1})
	testbed.Go(t, func(testing.TB) { flood(u, 70_000) })
	for {
		f := c.ReadFrame() // fails if it is torn
		if f.Opcode == testbed.Close {
			break
		}
		if len(f.Payload) != 70_000 {
			t.Fatalf("got a frame of %d bytes, want 70000", len(f.Payload))
		}
	}
	c.WriteFrame(testbed.NewClose(1001, ""))
	c.ExpectEOF()
	c.Close()
	expectFields(t, p.closedLine(), map[string]any{"reason": "max_lifetime"})
}

func TestStalledClientIsCut(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("takes six seconds; set LONG to run it")
	}
	p, _, u := openTunnel(t, &Timeouts{Write: caddy.Duration(time.Second)})
	flooded := testbed.Go(t, func(testing.TB) { flood(u, 1<<20) })
	flooded()
	expectFields(t, p.closedLine(), map[string]any{"reason": "write_timeout", "closed_by": "proxy"})
}

func TestSilentPeersOfAnEndedTunnelAreLeft(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("takes four seconds; set LONG to run it")
	}
	p, c, u := openTunnel(t, &Timeouts{Idle: 1})
	c.ExpectClose(1001)
	u.ExpectClose(1001) // from the proxy, two seconds later
	u.ExpectEOF()
	c.ExpectEOF()
	expectFields(t, p.closedLine(), map[string]any{"reason": "idle_timeout"})
	// The connections are closed, not only half-closed.
	expectGone(t, c.NetConn())
	expectGone(t, u.NetConn())
}

// flood sends frames of the size given until that fails.
func flood(u *testbed.Conn, size int) {
	frame := testbed.NewFrame(testbed.Binary, strings.Repeat("x", size)).Bytes(false)
	for {
		if _, err := u.Write(frame); err != nil {
			return
		}
	}
}

// expectGone checks that what is sent is refused.
func expectGone(t *testing.T, conn net.Conn) {
	t.Helper()
	eventually(t, "the connection is refused", func() bool {
		_, err := conn.Write([]byte{0})
		return err != nil
	})
}

func TestResetsHaveReasons(t *testing.T) {
	t.Run("of the client", func(t *testing.T) {
		p, c, u := openTunnel(t, nil)
		c.WriteFrame(testbed.NewFrame(testbed.Text, "hello"))
		u.ExpectFrame(testbed.Text, "hello")
		c.Reset()
		if runtime.GOOS == "linux" {
			u.ExpectReset()
		} else {
			u.ExpectClosed()
		}
		expectFields(t, p.closedLine(), map[string]any{"reason": "client_reset", "closed_by": "client"})
	})
	t.Run("of the upstream", func(t *testing.T) {
		p, c, u := openTunnel(t, nil)
		c.WriteFrame(testbed.NewFrame(testbed.Text, "hello"))
		u.ExpectFrame(testbed.Text, "hello")
		u.Reset()
		c.ExpectEOF()
		c.Close()
		expectFields(t, p.closedLine(), map[string]any{"reason": "upstream_reset", "closed_by": "upstream"})
	})
}

func TestGarbageInsteadOfTLSHasAReason(t *testing.T) {
	certs := testbed.NewCerts(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	p, c := dialProxy(t, &Handler{Upstreams: upstreams(up.Addr)}, "tls", certs)
	c.Handshake("/")
	c.Echo("hello")
	secured, _ := c.NetConn().(*tls.Conn)
	if _, err := secured.NetConn().Write([]byte("this is not TLS at all")); err != nil {
		t.Fatal(err)
	}
	expectFields(t, p.closedLine(), map[string]any{"reason": "client_error", "closed_by": "client"})
	up.WaitOpen(t, 0)
}

// An upstream refuses a message while it is still being sent, and closes with
// unread bytes, so that the kernel resets the connection.
func TestRefusalOfAMessageReachesTheClient(t *testing.T) {
	for range 20 {
		t.Run("", func(t *testing.T) {
			p, c, u := openTunnel(t, nil)
			sent := testbed.Go(t, func(testing.TB) {
				_, _ = c.Write(testbed.NewFrame(testbed.Binary, strings.Repeat("x", 1<<20)).Bytes(true))
			})
			u.Expect("\x82\xff") // the beginning of its header
			u.WriteFrame(testbed.NewClose(1009, "too big"))
			u.Close()
			c.ExpectClose(1009)
			sent()
			c.Close()
			expectFields(t, p.closedLine(), map[string]any{
				"reason":     "upstream_closed",
				"close_code": uint16(1009),
				"close_from": "upstream",
			})
		})
	}
}

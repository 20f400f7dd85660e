package websocketproxy

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// The kernel takes megabytes for a client, and then lets a write go on only when
// a third of them is gone. That takes a slow client far longer than it may do
// nothing, but it is reading all the time.
func TestSlowClientIsNotCut(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("takes ten seconds; set LONG to run it")
	}
	const (
		limit = 3 * time.Second
		step  = 10_000 // bytes
		pace  = 100 * time.Millisecond
	)
	most := caddy.Duration(limit)
	p, c, u := openTunnel(t, &Timeouts{Write: most, Idle: most, HalfClose: most})
	c.CloseWrite()
	if tcp, ok := c.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(64 << 10)
	}
	testbed.Go(t, func(testing.TB) { flood(u, 70_000) })
	buf := make([]byte, step)
	// Long enough for an end to be decided and carried out.
	for began := time.Now(); time.Since(began) < 3*limit; time.Sleep(pace) {
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
	}
	if n := p.logs.FilterMessage("tunnel closed").Len(); n != 0 {
		t.Errorf("the tunnel was closed: %v", p.closedLine())
	}
	c.Reset()
}

// It may take long to come to a ping, with so much before it.
func TestSlowClientThatHasNotComeToThePingIsNotLost(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("takes eight seconds; set LONG to run it")
	}
	const (
		limit  = 2 * time.Second
		step   = 10_000 // bytes
		pace   = 100 * time.Millisecond
		frames = 20
	)
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, &Handler{
		Upstreams: upstreams(up.Addr),
		Keepalive: &Keepalive{PingInterval: caddy.Duration(time.Second), PingTimeout: caddy.Duration(limit)},
	})
	c := testbed.Dial(t, p.Addr)
	u := accept(t, up, c)
	if tcp, ok := c.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(64 << 10)
	}
	testbed.Go(t, func(testing.TB) {
		message := testbed.NewFrame(testbed.Binary, strings.Repeat("x", 70_000)).Bytes(false)
		_, err := u.Write(bytes.Repeat(message, frames))
		for buf := make([]byte, 100); err == nil; { // some reaction to each ping
			if _, err = u.Read(buf); err == nil {
				_, err = u.Write(testbed.NewFrame(testbed.Pong, "").Bytes(false))
			}
		}
	})
	buf := make([]byte, step)
	for began := time.Now(); time.Since(began) < 4*limit; time.Sleep(pace) {
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
	}
	if n := p.logs.FilterMessage("tunnel closed").Len(); n != 0 {
		t.Errorf("the tunnel was closed: %v", p.closedLine())
	}
	c.Reset()
}

// Package testbed has test doubles for the two sides of a WebSocket proxy, on
// real loopback sockets: an [Upstream], well-behaved or hostile depending on its
// [Script], and a [Client] that speaks HTTP/1.1 and WebSocket by hand, so that
// every byte is under the control of the test.
//
// Nothing here shares code with the proxy. Every read and write has a deadline,
// and everything that a function starts or opens is ended and joined by a
// Cleanup that it registers itself.
package testbed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// waitTimeout is how long WaitOpen and WaitAccepted wait.
const waitTimeout = 30 * time.Second

// A Script plays the upstream's part on one connection, in a goroutine of its
// own. The connection is closed when the script returns. Fatal and FailNow on
// the TB given to the script end only the script.
type Script func(tb testing.TB, c *Conn)

// Upstream is a listener that hands every connection to a Script.
type Upstream struct {
	// Addr is host:port, or the path of a unix socket.
	Addr string

	tb     testing.TB
	tls    *tls.Config
	script Script
	next   chan *Conn
	wg     sync.WaitGroup

	mu       sync.Mutex // guards what follows
	listener net.Listener
	over     bool
	accepted int
	conns    map[*Conn]struct{}
	changed  chan struct{} // closed and replaced when accepted or conns change
}

// NewUpstream listens on a port of 127.0.0.1. If script is nil, the connections
// are for [Upstream.Next].
func NewUpstream(tb testing.TB, script Script) *Upstream {
	tb.Helper()
	return newUpstream(tb, &Upstream{Addr: "127.0.0.1:0", script: script})
}

// NewUpstreamAt is NewUpstream with a port of another address of this machine.
func NewUpstreamAt(tb testing.TB, host string, script Script) *Upstream {
	tb.Helper()
	return newUpstream(tb, &Upstream{Addr: net.JoinHostPort(host, "0"), script: script})
}

// NewTLSUpstream is NewUpstream with TLS. Connections whose TLS handshake fails
// are logged and do not reach the script.
func NewTLSUpstream(tb testing.TB, cfg *tls.Config, script Script) *Upstream {
	tb.Helper()
	return newUpstream(tb, &Upstream{Addr: "127.0.0.1:0", tls: cfg, script: script})
}

// NewUnixUpstream is NewUpstream with a unix socket.
func NewUnixUpstream(tb testing.TB, script Script) *Upstream {
	tb.Helper()
	dir, err := shortDir()
	if err != nil {
		tb.Fatalf("making a directory for a socket: %v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return newUpstream(tb, &Upstream{Addr: filepath.Join(dir, "upstream.sock"), script: script})
}

// shortDir exists because a path from testing.T.TempDir contains the name of
// the test and so may exceed the 104 bytes of some systems' socket addresses.
func shortDir() (string, error) { return os.MkdirTemp("", "testbed") }

func newUpstream(tb testing.TB, u *Upstream) *Upstream {
	tb.Helper()
	u.tb = background{tb}
	u.next = make(chan *Conn)
	u.conns = make(map[*Conn]struct{})
	u.changed = make(chan struct{})
	u.Start(tb)
	u.Addr = u.listener.Addr().String()
	tb.Cleanup(u.end)
	return u
}

// Start listens at Addr, again after Stop.
func (u *Upstream) Start(tb testing.TB) {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), networkOf(u.Addr), u.Addr)
	if err != nil {
		tb.Fatalf("upstream: listening on %s: %v", u.Addr, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.listener = ln
	u.wg.Go(func() { u.acceptFrom(ln) })
}

// Stop closes the listener: new connections are refused, while those accepted
// stay open.
func (u *Upstream) Stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	_ = u.listener.Close()
}

// end closes everything and waits for all goroutines.
func (u *Upstream) end() {
	u.Stop()
	u.mu.Lock()
	u.over = true
	for c := range u.conns {
		c.abort()
	}
	u.mu.Unlock()
	u.wg.Wait()
}

func (u *Upstream) acceptFrom(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			u.tb.Errorf("upstream %s: accepting: %v", ln.Addr(), err)
			return
		}
		u.wg.Go(func() { u.serve(conn) })
	}
}

// serve owns conn. All that follows the script is deferred because a script
// may end by runtime.Goexit.
func (u *Upstream) serve(conn net.Conn) {
	if u.tls != nil {
		conn = tls.Server(conn, u.tls)
	}
	c := newConn(u.tb, "upstream", conn)
	c.upstream = true
	if !u.enter(c) {
		c.abort()
		return
	}
	defer u.leave(c)
	defer c.Close()

	if err := handshakeTLS(u.tb.Context(), conn); err != nil {
		u.tb.Logf("%s: TLS handshake: %v", c.name, err)
		return
	}
	if u.script == nil {
		u.handOver(c)
		return
	}
	u.script(u.tb, c)
}

func handshakeTLS(ctx context.Context, conn net.Conn) error {
	t, ok := conn.(*tls.Conn)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	return t.HandshakeContext(ctx)
}

// handOver gives c to Next and waits until the test has closed it.
func (u *Upstream) handOver(c *Conn) {
	select {
	case u.next <- c:
		<-c.closed
	case <-c.closed:
	}
}

// enter counts a connection and reports whether the upstream still takes one.
func (u *Upstream) enter(c *Conn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return false
	}
	u.accepted++
	c.name = fmt.Sprintf("upstream, connection %d", u.accepted)
	u.conns[c] = struct{}{}
	u.changedLocked()
	return true
}

func (u *Upstream) leave(c *Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.conns, c)
	u.changedLocked()
}

func (u *Upstream) changedLocked() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// Next waits for a connection of an upstream without script. From then on the
// connection is the caller's: its failures are those of tb.
func (u *Upstream) Next(tb testing.TB) *Conn {
	tb.Helper()
	select {
	case c := <-u.next:
		c.belongTo(tb)
		return c
	case <-over(tb):
		runtime.Goexit()
	case <-time.After(Timeout):
		tb.Fatalf("upstream %s: no connection for %v", u.Addr, Timeout)
	}
	return nil
}

// Accepted returns how many connections there were so far.
func (u *Upstream) Accepted() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.accepted
}

// Open returns how many connections the upstream has not closed yet. Only a
// script that reads notices that its peer has gone.
func (u *Upstream) Open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.conns)
}

// WaitAccepted waits until Accepted returns n.
func (u *Upstream) WaitAccepted(tb testing.TB, n int) {
	tb.Helper()
	u.waitFor(tb, "connections accepted", n, u.Accepted)
}

// WaitOpen waits until Open returns n.
func (u *Upstream) WaitOpen(tb testing.TB, n int) {
	tb.Helper()
	u.waitFor(tb, "connections open", n, u.Open)
}

func (u *Upstream) waitFor(tb testing.TB, what string, want int, count func() int) {
	tb.Helper()
	timeout := time.After(waitTimeout)
	for {
		u.mu.Lock()
		changed := u.changed
		u.mu.Unlock()
		got := count() // after taking changed, so that no change is missed
		if got == want {
			return
		}
		select {
		case <-changed:
		case <-over(tb):
			runtime.Goexit()
		case <-timeout:
			tb.Fatalf("upstream %s: %d %s after %v, want %d", u.Addr, got, what, waitTimeout, want)
			return
		}
	}
}

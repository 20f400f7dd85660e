package testbed

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Timeout is how long a read or a write may take before it fails the test.
const Timeout = 30 * time.Second

// maxHead is how long a request or response head may be.
const maxHead = 1 << 20

var errHeadTooLarge = errors.New("head is longer than 1 MiB")

// Conn is one end of a connection whose methods fail the test instead of
// returning errors. One goroutine may read while another writes.
//
// In a [Script] a failing method also ends the script. Once the test function
// has returned, a method that fails ends the script quietly: the connections
// break then because the test is over. A test that cares about the last steps
// of a script therefore waits for them, for example with [Upstream.WaitOpen].
type Conn struct {
	tb       testing.TB
	name     string // for messages
	conn     net.Conn
	in       *bufio.Reader
	source   *source
	timeout  time.Duration // of writes; 0 means none
	upstream bool          // whether this is the upstream's end
	tolerant bool
	rawHead  string

	closing sync.Once
	closed  chan struct{}
}

func newConn(tb testing.TB, name string, conn net.Conn) *Conn {
	tb.Helper()
	src := &source{conn: conn, timeout: Timeout}
	return &Conn{
		tb: tb, name: name, conn: conn,
		source: src, in: bufio.NewReader(src), timeout: Timeout,
		closed: make(chan struct{}),
	}
}

// source is where a Conn reads from. It sets the deadline of each read and
// keeps the bytes of a head.
type source struct {
	conn    net.Conn
	timeout time.Duration // of each read; 0 means none
	keeping bool
	kept    []byte
}

func (s *source) Read(p []byte) (int, error) {
	if s.keeping && len(s.kept) > maxHead {
		return 0, errHeadTooLarge
	}
	_ = s.conn.SetReadDeadline(deadline(s.timeout))
	n, err := s.conn.Read(p)
	if s.keeping {
		s.kept = append(s.kept, p[:n]...)
	}
	return n, err
}

func deadline(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// SetTimeout replaces [Timeout] on this connection; 0 means none.
func (c *Conn) SetTimeout(d time.Duration) {
	c.source.timeout = d
	c.timeout = d
}

// Tolerate leaves it to the peer of a [Script] how long the connection lives:
// reads and writes have no deadline, and when the peer goes, in whatever way,
// the script ends and the test goes on.
func (c *Conn) Tolerate() {
	c.SetTimeout(0)
	c.tolerant = true
}

// NetConn returns the connection underneath. What has been read ahead from it
// is only available through Read.
func (c *Conn) NetConn() net.Conn { return c.conn }

// Read implements io.Reader.
func (c *Conn) Read(p []byte) (int, error) { return c.in.Read(p) }

// Write implements io.Writer.
func (c *Conn) Write(p []byte) (int, error) {
	_ = c.conn.SetWriteDeadline(deadline(c.timeout))
	return c.conn.Write(p)
}

// Send writes raw as it is.
func (c *Conn) Send(raw string) {
	c.tb.Helper()
	if _, err := c.Write([]byte(raw)); err != nil {
		c.fatal("writing", err)
	}
}

// WriteFrame writes a frame, masked if this is the client's end. A frame that
// is masked wrongly on purpose goes through Send.
func (c *Conn) WriteFrame(f Frame) {
	c.tb.Helper()
	if _, err := c.Write(f.Bytes(!c.upstream)); err != nil {
		c.fatal("writing a frame", err)
	}
}

// ReadFrame reads one frame. It does not judge it, except that the length must
// be encoded in the fewest bytes.
func (c *Conn) ReadFrame() Frame {
	c.tb.Helper()
	f, err := decodeFrame(c.in)
	if err != nil {
		c.fatal("reading a frame", err)
	}
	return f
}

// Drain reads until the peer's end, clean or not, and returns how many bytes
// there were.
func (c *Conn) Drain() int64 {
	c.tb.Helper()
	n, err := io.Copy(io.Discard, c.in)
	if err != nil && !gone(err) {
		c.fatal("waiting for the end", err)
	}
	return n
}

// ReadAll reads until the peer has ended its direction cleanly.
func (c *Conn) ReadAll() string {
	c.tb.Helper()
	all, err := io.ReadAll(c.in)
	if err != nil {
		c.fatal("reading until the end", err)
	}
	return string(all)
}

// Close closes the connection in the regular way.
func (c *Conn) Close() {
	c.closing.Do(func() {
		_ = c.conn.Close()
		close(c.closed)
	})
}

// CloseWrite ends this direction and leaves the other one open. Under TLS it
// sends close_notify, but no FIN.
func (c *Conn) CloseWrite() {
	c.tb.Helper()
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		c.tb.Fatalf("%s: %T cannot be half-closed", c.name, c.conn)
		return
	}
	if err := half.CloseWrite(); err != nil {
		c.fatal("closing the write direction", err)
	}
}

// Reset closes a TCP connection, under TLS too, by RST.
func (c *Conn) Reset() {
	c.tb.Helper()
	tcp, ok := c.socket().(*net.TCPConn)
	if !ok {
		c.tb.Fatalf("%s: only TCP has a reset, not %T", c.name, c.socket())
		return
	}
	if err := tcp.SetLinger(0); err != nil {
		c.fatal("resetting", err)
	}
	c.abort()
}

// belongTo makes c part of a test, which closes it: in a Cleanup or, if tb is
// for a goroutine that a Cleanup waits for, before.
func (c *Conn) belongTo(tb testing.TB) {
	tb.Helper()
	c.tb = tb
	if _, ok := tb.(background); ok {
		context.AfterFunc(tb.Context(), c.abort)
	}
	tb.Cleanup(c.abort)
}

// abort closes the socket without the farewell of TLS, which may block.
func (c *Conn) abort() {
	_ = c.socket().Close()
	c.Close()
}

func (c *Conn) socket() net.Conn {
	if t, ok := c.conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.conn
}

// fatal fails the test because of err and ends the calling goroutine. It is
// silent in scripts when the error was to be expected.
func (c *Conn) fatal(doing string, err error) {
	c.tb.Helper()
	exitIfOver(c.tb)
	if _, inScript := c.tb.(background); inScript && c.tolerant && gone(err) {
		runtime.Goexit()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.tb.Fatalf("%s: %s: nothing happened before the deadline", c.name, doing)
	}
	c.tb.Fatalf("%s: %s: %v", c.name, doing, err)
}

// gone tells whether err is one of the ways in which a connection ends.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || wasReset(err)
}

func wasReset(err error) bool {
	const (
		windowsAborted = syscall.Errno(10053) // WSAECONNABORTED
		windowsReset   = syscall.Errno(10054) // WSAECONNRESET
	)
	return errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, windowsReset) || errors.Is(err, windowsAborted)
}

package integration

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Attacker is a client that says what it wants over an HTTP/2 connection.
type h2Attacker struct {
	*h2Conn
	caddy  *caddy
	open   opener
	secure bool
}

func newH2Attacker(tb testing.TB, c *caddy, secure bool) *h2Attacker {
	tb.Helper()
	h := dialH2(tb, c, secure)
	h.framer.AllowIllegalWrites = true
	return &h2Attacker{h2Conn: h, caddy: c, open: h.opener(tb, c), secure: secure}
}

// raw writes frames, and reports whether the connection takes them.
func (a *h2Attacker) raw(write func(f *http2.Framer) error) bool {
	a.wmu.Lock()
	defer a.wmu.Unlock()
	_ = a.conn.SetWriteDeadline(time.Now().Add(timeout))
	return write(a.framer) == nil
}

// flood writes frames n times, or until the connection has ended.
func (a *h2Attacker) flood(n int, write func(f *http2.Framer) error) (written int) {
	for written < n && a.ended() == nil && a.raw(write) {
		written++
	}
	return written
}

// ended is why the server has ended the connection.
func (a *h2Attacker) ended() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// begin makes a stream known, of which nothing is sent.
func (a *h2Attacker) begin() *h2Stream {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &h2Stream{conn: a.h2Conn, id: a.nextID, window: a.initialWindowLocked()}
	a.streams[s.id] = s
	a.nextID += 2
	return s
}

// encode makes a header block, of a good request if there are no fields.
func (a *h2Attacker) encode(fields ...[2]string) []byte {
	a.wmu.Lock()
	defer a.wmu.Unlock()
	if len(fields) == 0 {
		fields = goodRequest(a.caddy, a.secure, "/")
	}
	a.block.Reset()
	for _, f := range fields {
		_ = a.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // never fails
	}
	return append([]byte{}, a.block.Bytes()...)
}

// sendHead sends a header block as many frames as it needs.
func (a *h2Attacker) sendHead(s *h2Stream, end bool, fields ...[2]string) {
	block := a.encode(fields...)
	const maxFrame = 16384
	first := block[:min(len(block), maxFrame)]
	block = block[len(first):]
	a.raw(func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: s.id, BlockFragment: first, EndStream: end, EndHeaders: len(block) == 0,
		})
	})
	for len(block) > 0 {
		next := block[:min(len(block), maxFrame)]
		block = block[len(next):]
		a.raw(func(f *http2.Framer) error { return f.WriteContinuation(s.id, len(block) == 0, next) })
	}
}

// goodRequest are the fields of a request for a WebSocket.
func goodRequest(c *caddy, secure bool, path string) [][2]string {
	scheme, authority := "http", c.http
	if secure {
		scheme, authority = "https", c.https
	}
	return [][2]string{
		{":method", "CONNECT"},
		{":protocol", "websocket"},
		{":scheme", scheme},
		{":authority", authority},
		{":path", path},
		{"sec-websocket-version", "13"},
	}
}

// noTunnel is the outcome of a request that was no handshake, and that Caddy has answered.
const noTunnel = "200 without a tunnel"

// outcome is what has become of a stream: a status, or the code of its reset, or the
// connection's end.
func (a *h2Attacker) outcome(tb testing.TB, s *h2Stream) string {
	tb.Helper()
	a.await(tb, "an outcome", timeout, func() bool { return s.status != 0 || s.reset != nil || a.err != nil })
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case s.status == 200 && s.header.Get("X-Tunnel") == "":
		return noTunnel
	case s.status != 0:
		return fmt.Sprint(s.status)
	case s.reset != nil:
		return s.reset.String()
	}
	return a.err.Error()
}

func (a *h2Attacker) rapidReset(n int) (done int) {
	for ; done < n && a.ended() == nil; done++ {
		s := a.begin()
		a.sendHead(s, false)
		a.raw(func(f *http2.Framer) error { return f.WriteRSTStream(s.id, http2.ErrCodeCancel) })
	}
	return done
}

func (a *h2Attacker) expectReset(tb testing.TB, s *h2Stream, code http2.ErrCode) {
	tb.Helper()
	a.await(tb, "a reset", timeout, func() bool { return s.reset != nil })
	if *s.reset != code {
		tb.Errorf("the stream was reset by %v, want %v", *s.reset, code)
	}
}

// awaitWindow takes n bytes of the windows.
func (a *h2Attacker) awaitWindow(tb testing.TB, s *h2Stream, n int64) {
	tb.Helper()
	a.await(tb, "the window", timeout, func() bool {
		ok := s.window >= n && a.window >= n
		if ok {
			s.window -= n
			a.window -= n
		}
		return ok
	})
}

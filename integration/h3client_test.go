package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// h3Stream is a stream of an HTTP/3 connection.
type h3Stream struct {
	*http3.RequestStream
	conn     *quic.Conn
	informed []http.Header // of responses before the final one
}

func (s *h3Stream) hints() []http.Header { return s.informed }

// h3Conn is the client's end of an HTTP/3 connection.
type h3Conn struct {
	conn   *quic.Conn
	socket net.PacketConn
}

// dialQUIC connects for HTTP/3.
func dialQUIC(tb testing.TB, c *caddy) *h3Conn {
	tb.Helper()
	// A test may have to wait for others between connecting and going on.
	return dialQUICWith(tb, c, &quic.Config{MaxIdleTimeout: 4 * timeout, KeepAlivePeriod: timeout / 3})
}

func dialQUICWith(tb testing.TB, c *caddy, times *quic.Config) *h3Conn {
	tb.Helper()
	return dialQUICBy(tb, c, func(socket net.PacketConn) net.PacketConn { return socket }, times)
}

// dialQUICBy has something in front of the socket.
func dialQUICBy(tb testing.TB, c *caddy, by func(net.PacketConn) net.PacketConn, times *quic.Config) *h3Conn {
	tb.Helper()
	socket, err := new(net.ListenConfig).ListenPacket(tb.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("HTTP/3: %v", err)
	}
	transport := &quic.Transport{Conn: by(socket)}
	cfg := c.certs.ClientConfig()
	cfg.NextProtos = []string{http3.NextProtoH3}
	server := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(c.https))
	conn, err := transport.Dial(timeLimit(tb), server, cfg, times)
	if err != nil {
		tb.Fatalf("HTTP/3: %v", err)
	}
	h := &h3Conn{conn: conn, socket: socket}
	tb.Cleanup(func() {
		h.close()
		_ = transport.Close()
		h.vanish()
	})
	return h
}

func (h *h3Conn) close() {
	_ = h.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// vanish leaves the connection without a word.
func (h *h3Conn) vanish() { _ = h.socket.Close() }

// connectH3 is the connector for HTTP/3.
func connectH3(tb testing.TB, c *caddy) opener {
	tb.Helper()
	return dialQUIC(tb, c).opener(tb, c)
}

func (h *h3Conn) opener(tb testing.TB, c *caddy) opener {
	tb.Helper()
	conn := h.conn
	client := new(http3.Transport).NewClientConn(conn)
	select {
	case <-client.ReceivedSettings():
	case <-time.After(timeout):
		tb.Fatalf("HTTP/3: no settings within %v", timeout)
	}
	if !client.Settings().EnableExtendedConnect {
		tb.Fatal("HTTP/3: the server does not offer extended CONNECT")
	}
	return func(tb testing.TB, req request) stream {
		tb.Helper()
		rs, err := client.OpenRequestStream(timeLimit(tb))
		if err != nil {
			tb.Fatalf("HTTP/3: opening a stream: %v", err)
		}
		u, err := url.Parse("https://" + c.https + req.path)
		if err != nil {
			tb.Fatalf("HTTP/3: %v", err)
		}
		r := &http.Request{
			Method: http.MethodConnect,
			Proto:  req.protocol,
			Host:   c.https,
			URL:    u,
			Header: make(http.Header),
		}
		r.Header.Set("Accept-Encoding", "identity") // keeps the library from adding gzip
		for _, f := range req.fields {
			r.Header.Add(f[0], f[1])
		}
		if err := rs.SendRequestHeader(r); err != nil {
			tb.Fatalf("HTTP/3: sending a request: %v", err)
		}
		return &h3Stream{RequestStream: rs, conn: conn}
	}
}

// rawH3Stream is a stream of a client that does nothing by itself: the library's
// closes its connection when the server wants to stop.
type rawH3Stream struct{ *quic.Stream }

// sendHead sends a request as it is.
func (h *h3Conn) sendHead(tb testing.TB, fields ...[2]string) rawH3Stream {
	tb.Helper()
	raw := h.openRaw(tb)
	raw.sendFrame(tb, 1, fieldSection(fields))
	return raw
}

// openRaw opens a stream on which nothing is sent.
func (h *h3Conn) openRaw(tb testing.TB) rawH3Stream {
	tb.Helper()
	s, err := h.conn.OpenStreamSync(timeLimit(tb))
	if err != nil {
		tb.Fatalf("HTTP/3: opening a stream: %v", err)
	}
	_ = s.SetDeadline(time.Now().Add(timeout))
	return rawH3Stream{s}
}

// fieldSection encodes fields as literals with literal names, and without the dynamic
// table (RFC 9204 sections 4.5.1 and 4.5.6).
func fieldSection(fields [][2]string) []byte {
	section := []byte{0, 0}
	for _, f := range fields {
		section = appendPrefixed(section, 0x20, 3, len(f[0]))
		section = append(section, f[0]...)
		section = appendPrefixed(section, 0, 7, len(f[1]))
		section = append(section, f[1]...)
	}
	return section
}

// appendPrefixed adds an integer of which the first byte has so many bits (RFC 7541
// section 5.1).
func appendPrefixed(b []byte, first byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(b, first|byte(n))
	}
	b = append(b, first|byte(most))
	for n -= most; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(b, byte(n))
}

// sendWebSocket sends a good request for a WebSocket, with more fields.
func (h *h3Conn) sendWebSocket(tb testing.TB, c *caddy, fields ...[2]string) rawH3Stream {
	tb.Helper()
	return h.sendHead(tb, append([][2]string{
		{":method", "CONNECT"},
		{":protocol", "websocket"},
		{":scheme", "https"},
		{":authority", c.https},
		{":path", "/"},
		{"sec-websocket-version", "13"},
	}, fields...)...)
}

// sendFrame sends a frame: DATA is type 0, HEADERS 1 (RFC 9114 section 7.2).
func (s rawH3Stream) sendFrame(tb testing.TB, kind byte, payload []byte) {
	tb.Helper()
	frame := quicvarint.Append([]byte{kind}, uint64(len(payload)))
	if _, err := s.Write(append(frame, payload...)); err != nil {
		tb.Fatalf("HTTP/3: sending a frame: %v", err)
	}
}

// awaitText reads until something has come that contains a text.
func (s rawH3Stream) awaitText(tb testing.TB, want string) {
	tb.Helper()
	var got []byte
	for buf := make([]byte, 1000); !bytes.Contains(got, []byte(want)); {
		n, err := s.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil && !bytes.Contains(got, []byte(want)) {
			tb.Fatalf("HTTP/3: got %q, %v, want %q", got, err, want)
		}
	}
}

func (s *h3Stream) response(tb testing.TB) (status int, header http.Header) {
	tb.Helper()
	_ = s.SetReadDeadline(time.Now().Add(timeout))
	for {
		resp, err := s.ReadResponse()
		if err != nil {
			tb.Fatalf("HTTP/3: waiting for a response: %v", err)
		}
		if resp.StatusCode >= 200 {
			return resp.StatusCode, resp.Header
		}
		s.informed = append(s.informed, resp.Header)
	}
}

func (s *h3Stream) readWithin(p []byte, limit time.Duration) (int, error) {
	_ = s.SetReadDeadline(time.Now().Add(limit))
	n, err := s.Read(p)
	var reset *http3.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, errSilence
	case errors.Is(err, io.EOF):
		return n, io.EOF
	case errors.As(err, &reset):
		return n, fmt.Errorf("%w: %w", errReset, err)
	}
	return n, err
}

func (s *h3Stream) Write(p []byte) (int, error) { return s.writeWithin(p, timeout) }

func (s *h3Stream) writeWithin(p []byte, limit time.Duration) (int, error) {
	_ = s.SetWriteDeadline(time.Now().Add(limit))
	return s.RequestStream.Write(p)
}

func (s *h3Stream) closeWrite(tb testing.TB) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatalf("HTTP/3: ending the stream: %v", err)
	}
}

func (s *h3Stream) cancel(testing.TB) {
	s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
}

func (s *h3Stream) disconnect(testing.TB) {
	_ = s.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

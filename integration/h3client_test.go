package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
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
	conn *quic.Conn
}

// dialQUIC connects for HTTP/3.
func dialQUIC(tb testing.TB, c *caddy) *quic.Conn {
	tb.Helper()
	cfg := c.certs.ClientConfig()
	cfg.NextProtos = []string{http3.NextProtoH3}
	conn, err := quic.DialAddr(timeLimit(tb), c.https, cfg, &quic.Config{
		MaxIdleTimeout: 4 * timeout,
		// A test may have to wait for others between connecting and going on.
		KeepAlivePeriod: timeout / 3,
	})
	if err != nil {
		tb.Fatalf("HTTP/3: %v", err)
	}
	tb.Cleanup(func() { _ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "") })
	return conn
}

// connectH3 is the connector for HTTP/3.
func connectH3(tb testing.TB, c *caddy) opener {
	tb.Helper()
	conn := dialQUIC(tb, c)
	h := new(http3.Transport).NewClientConn(conn)
	select {
	case <-h.ReceivedSettings():
	case <-time.After(timeout):
		tb.Fatalf("HTTP/3: no settings within %v", timeout)
	}
	if !h.Settings().EnableExtendedConnect {
		tb.Fatal("HTTP/3: the server does not offer extended CONNECT")
	}
	return func(tb testing.TB, req request) stream {
		tb.Helper()
		rs, err := h.OpenRequestStream(timeLimit(tb))
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

// sendHeadH3 sends a request that the library would not, on a connection of its
// own. The names and values are short.
func sendHeadH3(tb testing.TB, c *caddy, fields [][2]string) {
	tb.Helper()
	s, err := dialQUIC(tb, c).OpenStreamSync(timeLimit(tb))
	if err != nil {
		tb.Fatalf("HTTP/3: opening a stream: %v", err)
	}
	section := []byte{0, 0} // nothing of the dynamic table (RFC 9204 section 4.5.1)
	for _, f := range fields {
		// Literal field lines with literal names (section 4.5.6).
		const long = 7
		if n := len(f[0]); n < long {
			section = append(section, 0x20|byte(n))
		} else {
			section = append(section, 0x20|long, byte(n-long))
		}
		section = append(section, f[0]...)
		section = append(section, byte(len(f[1])))
		section = append(section, f[1]...)
	}
	const headers = 1 // the type of the frame (RFC 9114 section 7.2.2)
	frame := quicvarint.Append([]byte{headers}, uint64(len(section)))
	if _, err := s.Write(append(frame, section...)); err != nil {
		tb.Fatalf("HTTP/3: sending a request: %v", err)
	}
}

func (s *h3Stream) response(tb testing.TB) (status int, header http.Header) {
	tb.Helper()
	_ = s.SetReadDeadline(time.Now().Add(timeout))
	resp, err := s.ReadResponse()
	if err != nil {
		tb.Fatalf("HTTP/3: waiting for a response: %v", err)
	}
	return resp.StatusCode, resp.Header
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

func (s *h3Stream) Write(p []byte) (int, error) {
	_ = s.SetWriteDeadline(time.Now().Add(timeout))
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

package integration

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

var (
	errReset   = errors.New("the stream was reset")
	errSilence = errors.New("nothing came in time")
	errWindow  = errors.New("the server did not let us send in time")
)

// stream is the client's end of an extended CONNECT.
type stream interface {
	io.Writer
	readWithin(p []byte, limit time.Duration) (int, error)
	response(tb testing.TB) (status int, header http.Header)
	// hints are the headers of informational responses before that.
	hints() []http.Header
	closeWrite(tb testing.TB)
	// cancel resets the stream.
	cancel(tb testing.TB)
	// disconnect closes the stream's connection.
	disconnect(tb testing.TB)
}

// request is a CONNECT. Without a protocol it is an ordinary one.
type request struct {
	protocol, path string
	fields         [][2]string // in lower case
}

// An opener sends requests over one connection, which a connector makes.
type (
	opener    func(tb testing.TB, req request) stream
	connector func(tb testing.TB, c *caddy) opener
)

var connectors = map[string]connector{
	"h2":  connectH2(true),
	"h2c": connectH2(false),
	"h3":  connectH3,
}

// streaming are the global options for extended CONNECT over all protocols,
// with idle timeouts that no tunnel may meet.
const streaming = `servers {
	protocols h1 h2 h2c h3
	timeouts {
		read_body_idle 1s
		write_idle 1s
	}
}`

// startStreaming starts a Caddy that offers extended CONNECT over HTTP/2.
func startStreaming(tb testing.TB, body string) *caddy {
	tb.Helper()
	return startCaddy(tb, site(body, streaming))
}

// webSocket is a good request for a WebSocket, with more header fields.
func webSocket(path string, fields ...[2]string) request {
	return request{
		protocol: "websocket",
		path:     path,
		fields:   append([][2]string{{"sec-websocket-version", "13"}}, fields...),
	}
}

// streamClient is the client's end of a WebSocket on a stream.
type streamClient struct {
	stream
	in     *bufio.Reader
	header http.Header // of the response
}

// openWebSocket opens a WebSocket, which has to succeed.
func openWebSocket(tb testing.TB, open opener, req request) *streamClient {
	tb.Helper()
	s := open(tb, req)
	status, header := s.response(tb)
	if status != http.StatusOK {
		tb.Fatalf("the response has status %d, want 200: %v", status, header)
	}
	return &streamClient{stream: s, in: bufio.NewReader(streamReader{s}), header: header}
}

type streamReader struct{ stream }

func (r streamReader) Read(p []byte) (int, error) { return r.readWithin(p, timeout) }

func (c *streamClient) send(tb testing.TB, f testbed.Frame) {
	tb.Helper()
	if _, err := c.Write(f.Bytes(true)); err != nil {
		tb.Fatalf("sending %v: %v", f, err)
	}
}

func (c *streamClient) expect(tb testing.TB, want testbed.Frame) {
	tb.Helper()
	got, err := readFrame(c.in)
	if err != nil {
		tb.Fatalf("reading a frame: %v; want %v", err, want)
	}
	if got.String() != want.String() || string(got.Payload) != string(want.Payload) {
		tb.Fatalf("got %v, want %v", got, want)
	}
}

func (c *streamClient) echo(tb testing.TB, text string) {
	tb.Helper()
	c.send(tb, testbed.NewFrame(testbed.Text, text))
	c.expect(tb, testbed.NewFrame(testbed.Text, text))
}

// expectEnd waits for the regular end of the stream.
func (c *streamClient) expectEnd(tb testing.TB) {
	tb.Helper()
	if b, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		tb.Fatalf("got byte %#x and error %v, want the end of the stream", b, err)
	}
}

// readFrame reads a frame that is not masked.
func readFrame(r io.Reader) (testbed.Frame, error) {
	var head [10]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return testbed.Frame{}, err
	}
	f := testbed.Frame{Fin: head[0]&0x80 != 0, RSV: head[0] >> 4 & 7, Opcode: head[0] & 0xF}
	size := uint64(head[1]) // a mask bit would make it absurd
	switch size {
	case 126:
		if _, err := io.ReadFull(r, head[:2]); err != nil {
			return f, err
		}
		size = uint64(binary.BigEndian.Uint16(head[:]))
	case 127:
		if _, err := io.ReadFull(r, head[:8]); err != nil {
			return f, err
		}
		size = binary.BigEndian.Uint64(head[:])
	}
	if size > 64<<20 {
		return f, errors.New("a frame of this size was never sent")
	}
	f.Payload = make([]byte, size)
	_, err := io.ReadFull(r, f.Payload)
	return f, err
}

// accept waits for the handshake at the upstream while open sends it.
func accept(tb testing.TB, up *testbed.Upstream, open opener, req request, extra ...string) (
	*streamClient, *testbed.Conn, *http.Request,
) {
	tb.Helper()
	var upstream *testbed.Conn
	var got *http.Request
	accepted := testbed.Go(tb, func(tb testing.TB) {
		upstream = up.Next(tb)
		got = upstream.AcceptHandshake(extra...)
	})
	client := openWebSocket(tb, open, req)
	accepted()
	return client, upstream, got
}

// TestLongHeadersWhereTheyAreAllowed has a header of nearly a MiB pass, and all
// that comes after it.
func TestLongHeadersWhereTheyAreAllowed(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo(up.Addr), strings.Replace(streaming, "timeouts {", "max_header_size 2MiB\ntimeouts {", 1)))
	long := strings.Repeat("x", 1<<20-1<<10)
	for name, connect := range connectors {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := webSocket("/")
			req.fields = append(req.fields, [2]string{"x-long", long})
			openWebSocket(t, connect(t, c), req).echo(t, "after a long header")
		})
	}
}

package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/http2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// slowReader reads from a connection as a slow line would.
type slowReader struct{ net.Conn }

func (r slowReader) Read(p []byte) (int, error) {
	time.Sleep(40 * time.Millisecond) // that is the line: 400 KiB a second
	return r.Conn.Read(p[:min(len(p), 16<<10)])
}

// dataReader reads the content of the only stream of an HTTP/2 connection.
type dataReader struct {
	*http2.Framer

	rest []byte
}

func (r *dataReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		f, err := r.ReadFrame()
		if err != nil {
			return 0, err
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			if f.StreamEnded() && len(f.Data()) == 0 {
				return 0, io.EOF
			}
			r.rest = f.Data()
		case *http2.RSTStreamFrame:
			return 0, fmt.Errorf("%w: %v", errReset, f.ErrCode)
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Write sends a frame of DATA, which is short.
func (r *dataReader) Write(p []byte) (int, error) { return len(p), r.WriteData(1, false, p) }

// slowPackets is slowReader for HTTP/3.
type slowPackets struct{ net.PacketConn }

func (c slowPackets) ReadFrom(p []byte) (int, net.Addr, error) {
	time.Sleep(time.Millisecond)
	return c.PacketConn.ReadFrom(p)
}

// h3Content is what a stream of HTTP/3 carries.
type h3Content struct{ *streamClient }

func (c h3Content) Read(p []byte) (int, error) { return c.in.Read(p) }

// slowWays are how slow clients open a WebSocket.
var slowWays = map[string]func(t *testing.T, c *caddy) io.ReadWriter{
	"h1":     slowSocket(false),
	"h1 TLS": slowSocket(true),
	"h2":     slowStream(true),
	"h2c":    slowStream(false),
	"h3": func(t *testing.T, c *caddy) io.ReadWriter {
		t.Helper()
		const window = 16 << 20
		h := dialQUICBy(t, c, func(socket net.PacketConn) net.PacketConn { return slowPackets{socket} }, &quic.Config{
			MaxIdleTimeout: timeout, InitialStreamReceiveWindow: window, InitialConnectionReceiveWindow: window,
		})
		return h3Content{openWebSocket(t, h.opener(t, c), webSocket("/"))}
	},
}

func slowSocket(secure bool) func(t *testing.T, c *caddy) io.ReadWriter {
	return func(t *testing.T, c *caddy) io.ReadWriter {
		t.Helper()
		client := c.dial(t, secure)
		if tcp, ok := client.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(64 << 10)
		}
		client.Handshake("/")
		return struct {
			io.Reader
			io.Writer
		}{slowReader{client.NetConn()}, client}
	}
}

func slowStream(secure bool) func(t *testing.T, c *caddy) io.ReadWriter {
	return func(t *testing.T, c *caddy) io.ReadWriter {
		t.Helper()
		conn := openWide(t, c, secure)
		return &dataReader{Framer: http2.NewFramer(conn, bufio.NewReaderSize(slowReader{conn}, 16<<10))}
	}
}

// TestSlowClientsAreNotLost has clients that read all the time, but come to a ping only
// when its timeout is long over: so much is before it in the proxy's system, which knows.
func TestSlowClientsAreNotLost(t *testing.T) {
	t.Parallel()
	if os.Getenv("LONG") == "" {
		t.Skip("takes fifteen seconds; set LONG to run it")
	}
	for name, dial := range slowWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := testbed.NewUpstream(t, nil)
			c := startStreaming(t, proxyTo(up.Addr, "ping_interval 1s", "ping_timeout 3s"))
			var u *testbed.Conn
			accepted := testbed.Go(t, func(tb testing.TB) {
				u = up.Next(tb)
				u.AcceptHandshake()
			})
			client := dial(t, c)
			accepted()
			burst := testbed.NewFrame(testbed.Binary, strings.Repeat("x", 4<<20))
			sent := testbed.Go(t, func(testing.TB) { u.WriteFrame(burst) })
			heard := testbed.Go(t, func(tb testing.TB) { // and meanwhile it answers pings
				if f := (&pairTunnel{u: u}).upstreamNext(); string(f.Payload) != "here I am" {
					tb.Errorf("the upstream has got %v, want the client's word", f)
				}
			})
			answerSlowly(t, client, burst)
			sent()
			heard()
			u.Close()
		})
	}
}

// answerSlowly is a client that reads a message, answers the ping behind it, and says
// something.
func answerSlowly(t *testing.T, client io.ReadWriter, message testbed.Frame) {
	t.Helper()
	in := bufio.NewReader(client)
	got, err := readFrame(in)
	if err != nil || len(got.Payload) != len(message.Payload) {
		t.Fatalf("the client has got %v, %v, want all of the message", got, err)
	}
	if got, err = readFrame(in); err != nil || got.Opcode != testbed.Ping {
		t.Fatalf("the client has got %v, %v, want the ping", got, err)
	}
	for _, f := range []testbed.Frame{
		testbed.NewFrame(testbed.Pong, string(got.Payload)), testbed.NewFrame(testbed.Text, "here I am"),
	} {
		if _, err := client.Write(f.Bytes(true)); err != nil {
			t.Fatal(err)
		}
	}
}

package integration

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// client is a client made with somebody's WebSocket library. Its methods fail
// the test instead of returning errors.
type client interface {
	write(tb testing.TB, typ byte, payload []byte)
	// writeParts writes a message in several frames.
	writeParts(tb testing.TB, typ byte, parts ...string)
	read(tb testing.TB) (typ byte, payload []byte)
	// ping waits for the Pong and compares the payloads.
	ping(tb testing.TB)
	// close performs the closing handshake.
	close(tb testing.TB, code int, reason string)
	// awaitClose waits for a closing handshake by the peer.
	awaitClose(tb testing.TB) (code int, reason string)
	// handshake is the response to the handshake.
	handshake() *http.Response
}

type dialOptions struct {
	tls          *tls.Config
	header       http.Header
	subprotocols []string
	compress     bool
	// over carries the handshake and the messages instead of HTTP/1.1, if the
	// library lets it.
	over http.RoundTripper
}

// clients dial with each of the libraries. They fail the test if there is no
// connection.
var clients = map[string]func(tb testing.TB, url string, opts dialOptions) client{
	"gorilla": func(tb testing.TB, url string, opts dialOptions) client { return dialGorilla(tb, url, opts) },
	"coder":   dialCoder,
}

type gorillaClient struct {
	*gorilla.Conn
	resp *http.Response
	pong []byte
}

func dialGorilla(tb testing.TB, url string, opts dialOptions) *gorillaClient {
	tb.Helper()
	d := gorilla.Dialer{
		HandshakeTimeout:  timeout,
		TLSClientConfig:   opts.tls,
		Subprotocols:      opts.subprotocols,
		EnableCompression: opts.compress,
	}
	conn, resp, err := d.DialContext(timeLimit(tb), url, opts.header)
	if err != nil {
		tb.Fatalf("dialing %s: %v", url, err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	c := &gorillaClient{Conn: conn, resp: resp}
	conn.SetPongHandler(func(payload string) error {
		c.pong = []byte(payload)
		return nil
	})
	return c
}

func (c *gorillaClient) write(tb testing.TB, typ byte, payload []byte) {
	tb.Helper()
	_ = c.SetWriteDeadline(time.Now().Add(timeout))
	if err := c.WriteMessage(int(typ), payload); err != nil {
		tb.Fatalf("writing a message: %v", err)
	}
}

// writeParts depends on the size of gorilla's buffer: a frame is what fits into
// it, so it fills it up.
func (c *gorillaClient) writeParts(tb testing.TB, typ byte, parts ...string) {
	tb.Helper()
	w, err := c.NextWriter(int(typ))
	if err != nil {
		tb.Fatalf("writing a message: %v", err)
	}
	for _, part := range parts {
		if _, err := w.Write([]byte(part)); err != nil {
			tb.Fatalf("writing a part of a message: %v", err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatalf("writing the end of a message: %v", err)
	}
}

func (c *gorillaClient) read(tb testing.TB) (typ byte, payload []byte) {
	tb.Helper()
	_ = c.SetReadDeadline(time.Now().Add(timeout))
	t, payload, err := c.ReadMessage()
	if err != nil {
		tb.Fatalf("reading a message: %v", err)
	}
	return byte(t), payload
}

func (c *gorillaClient) ping(tb testing.TB) {
	tb.Helper()
	payload := []byte("from gorilla")
	if err := c.WriteControl(gorilla.PingMessage, payload, time.Now().Add(timeout)); err != nil {
		tb.Fatalf("writing a Ping: %v", err)
	}
	// The Pong comes before the echo of what follows the Ping.
	echo(tb, c, gorilla.TextMessage, []byte("after the ping"))
	if !bytes.Equal(c.pong, payload) {
		tb.Fatalf("got Pong %q, want %q", c.pong, payload)
	}
}

func (c *gorillaClient) close(tb testing.TB, code int, reason string) {
	tb.Helper()
	message := gorilla.FormatCloseMessage(code, reason)
	if err := c.WriteControl(gorilla.CloseMessage, message, time.Now().Add(timeout)); err != nil {
		tb.Fatalf("writing a Close: %v", err)
	}
	if got, _ := c.awaitClose(tb); got != code {
		tb.Fatalf("the answer to Close %d has code %d", code, got)
	}
}

func (c *gorillaClient) awaitClose(tb testing.TB) (code int, reason string) {
	tb.Helper()
	_ = c.SetReadDeadline(time.Now().Add(timeout))
	_, payload, err := c.ReadMessage()
	if err == nil {
		tb.Fatalf("got message %q, want a Close", payload)
	}
	e := gorillaEnd(c.Conn, err)
	if e.Code < 0 {
		tb.Fatalf("waiting for a Close: %v", err)
	}
	_ = c.Conn.Close() // gorilla leaves that to the program
	return e.Code, e.Reason
}

func (c *gorillaClient) handshake() *http.Response { return c.resp }

type coderClient struct {
	*websocket.Conn
	resp *http.Response
}

func dialCoder(tb testing.TB, url string, opts dialOptions) client {
	tb.Helper()
	transport := &http.Transport{TLSClientConfig: opts.tls}
	tb.Cleanup(transport.CloseIdleConnections)
	o := &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: transport},
		HTTPHeader:   opts.header,
		Subprotocols: opts.subprotocols,
	}
	if opts.compress {
		o.CompressionMode = websocket.CompressionContextTakeover
	}
	if opts.over != nil {
		o.HTTPClient.Transport = opts.over
	}
	conn, resp, err := websocket.Dial(timeLimit(tb), url, o)
	if err != nil {
		tb.Fatalf("dialing %s: %v", url, err)
	}
	conn.SetReadLimit(-1)
	tb.Cleanup(func() { _ = conn.CloseNow() })
	return &coderClient{Conn: conn, resp: resp}
}

func (c *coderClient) write(tb testing.TB, typ byte, payload []byte) {
	tb.Helper()
	if err := c.Write(timeLimit(tb), websocket.MessageType(typ), payload); err != nil {
		tb.Fatalf("writing a message: %v", err)
	}
}

func (c *coderClient) writeParts(tb testing.TB, typ byte, parts ...string) {
	tb.Helper()
	w, err := c.Writer(timeLimit(tb), websocket.MessageType(typ))
	if err != nil {
		tb.Fatalf("writing a message: %v", err)
	}
	for _, part := range parts {
		if _, err := w.Write([]byte(part)); err != nil {
			tb.Fatalf("writing a part of a message: %v", err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatalf("writing the end of a message: %v", err)
	}
}

func (c *coderClient) read(tb testing.TB) (typ byte, payload []byte) {
	tb.Helper()
	t, payload, err := c.Read(timeLimit(tb))
	if err != nil {
		tb.Fatalf("reading a message: %v", err)
	}
	return byte(t), payload
}

func (c *coderClient) ping(tb testing.TB) {
	tb.Helper()
	// Ping needs a reader, which needs a message to come to its end.
	type message struct {
		payload []byte
		err     error
	}
	ctx, read := timeLimit(tb), make(chan message, 1)
	go func() {
		_, payload, err := c.Read(ctx)
		read <- message{payload, err}
	}()
	if err := c.Ping(ctx); err != nil {
		tb.Fatalf("waiting for a Pong: %v", err)
	}
	c.write(tb, gorilla.TextMessage, []byte("after the ping"))
	if m := within(tb, "the echo after the ping", read); m.err != nil || string(m.payload) != "after the ping" {
		tb.Fatalf("after the ping: %q, %v", m.payload, m.err)
	}
}

func (c *coderClient) close(tb testing.TB, code int, reason string) {
	tb.Helper()
	if err := c.Close(websocket.StatusCode(code), reason); err != nil {
		tb.Fatalf("closing with %d: %v", code, err)
	}
}

func (c *coderClient) awaitClose(tb testing.TB) (code int, reason string) {
	tb.Helper()
	_, payload, err := c.Read(timeLimit(tb))
	if err == nil {
		tb.Fatalf("got message %q, want a Close", payload)
	}
	e := coderEnd(c.Conn, err)
	if e.Code < 0 {
		tb.Fatalf("waiting for a Close: %v", err)
	}
	return e.Code, e.Reason
}

func (c *coderClient) handshake() *http.Response { return c.resp }

// echo sends a message and expects the same back.
func echo(tb testing.TB, c client, typ byte, payload []byte) {
	tb.Helper()
	// Long messages are written while the answer is read: the proxy does not
	// store them.
	written := make(chan struct{})
	defer func() { <-written }()
	if len(payload) > 1<<20 {
		go func() {
			defer close(written)
			c.write(failLater{tb}, typ, payload)
		}()
	} else {
		c.write(tb, typ, payload)
		close(written)
	}
	gotType, got := c.read(tb)
	if gotType != typ || !bytes.Equal(got, payload) {
		tb.Fatalf("got message of type %d with %d bytes %.60q, want type %d with %d bytes %.60q",
			gotType, len(got), got, typ, len(payload), payload)
	}
}

// failLater is a TB for other goroutines than the test's own.
type failLater struct{ testing.TB }

func (f failLater) Fatalf(format string, args ...any) {
	f.Helper()
	f.Errorf(format, args...)
}

// echoText is echo with a text message.
func echoText(tb testing.TB, c client, text string) {
	tb.Helper()
	echo(tb, c, gorilla.TextMessage, []byte(text))
}

// extensions are those that the handshake has agreed on.
func extensions(c client) string {
	return strings.Join(c.handshake().Header.Values("Sec-WebSocket-Extensions"), ", ")
}

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

const (
	serverName = "localhost"
	// The key and its answer from RFC 6455 section 1.3: a fixed key costs the
	// load generator nothing to verify.
	handshakeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	handshakeAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

	// connectionLimit bounds a client's whole life, so that a proxy that hangs
	// fails its measurement and not the run.
	connectionLimit = 5 * time.Minute
	// handshakeLimit bounds connecting, TLS and the upgrade.
	handshakeLimit = 20 * time.Second
)

// target is where clients connect.
type target struct {
	addr string
	tls  *tls.Config // nil for plain TCP
	// carriers have streams for tunnels; nil if each has a connection of HTTP/1.1.
	carriers *carriers
}

// client is one WebSocket connection to a proxy.
type client struct {
	conn stream
	r    *bufio.Reader
	buf  []byte
}

// dial opens a WebSocket at path. The read buffer has bufferSize bytes.
func (t target) dial(ctx context.Context, path string, bufferSize int) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	if t.carriers != nil {
		return t.dialStream(ctx, path, bufferSize)
	}
	conn, err := t.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", t.addr, err)
	}
	c := &client{conn: conn, r: bufio.NewReaderSize(conn, bufferSize)}
	_ = conn.SetDeadline(time.Now().Add(handshakeLimit)) // fails only on a closed connection
	if err := c.upgrade(t.addr, path); err != nil {
		closeQuietly(conn)
		return nil, fmt.Errorf("upgrading at %s: %w", t.addr, err)
	}
	_ = conn.SetDeadline(time.Now().Add(connectionLimit))
	return c, nil
}

// dialStream is dial with extended CONNECT.
func (t target) dialStream(ctx context.Context, path string, bufferSize int) (*client, error) {
	conn, err := t.carriers.open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", t.addr, err)
	}
	_ = conn.SetDeadline(time.Now().Add(connectionLimit)) // fails only on a closed connection
	return &client{conn: conn, r: bufio.NewReaderSize(conn, bufferSize)}, nil
}

func (t target) connect(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.addr)
	if err != nil || t.tls == nil {
		return conn, err
	}
	tlsConn := tls.Client(conn, t.tls)
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		closeQuietly(conn)
		return nil, err
	}
	return tlsConn, nil
}

// upgrade performs the opening handshake.
func (c *client) upgrade(host, path string) error {
	_, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\n"+
		"Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n",
		path, host, handshakeKey)
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // a 101 has none
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return statusError(resp.Status)
	}
	if got := resp.Header.Get("Sec-WebSocket-Accept"); got != handshakeAccept {
		return fmt.Errorf("got Sec-WebSocket-Accept %q, want %q", got, handshakeAccept)
	}
	return nil
}

// statusError is another answer than what was asked for.
type statusError string

func (status statusError) Error() string { return "got status " + string(status) }

// receive returns the payload of the next data message, which is valid until
// the next call. It answers pings.
func (c *client) receive() ([]byte, error) {
	for {
		h, err := readHeader(c.r)
		if err != nil {
			return nil, err
		}
		if c.buf, err = readPayload(c.r, h, c.buf); err != nil {
			return nil, err
		}
		switch h.opcode {
		case opText, opBinary:
			return c.buf, nil
		case opPing:
			if _, err := c.conn.Write(appendFrame(nil, opPong, &clientMask, c.buf)); err != nil {
				return nil, err
			}
		case opPong:
		default:
			return nil, fmt.Errorf("got unexpected opcode %#x with payload %q", h.opcode, c.buf)
		}
	}
}

// message is a payload with the masked frame that carries it.
type message struct {
	payload, frame []byte
}

func newMessage(size int) message {
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(i)
	}
	return message{payload: payload, frame: appendFrame(nil, opBinary, &clientMask, payload)}
}

// echo sends m and waits until it has come back unchanged.
func (c *client) echo(m message) error {
	if _, err := c.conn.Write(m.frame); err != nil {
		return err
	}
	got, err := c.receive()
	if err != nil {
		return err
	}
	if !bytes.Equal(got, m.payload) {
		return errors.New("echo differs from what was sent")
	}
	return nil
}

// skip reads messages until it has seen n bytes of payload.
func (c *client) skip(n int64) error {
	for n > 0 {
		h, err := readHeader(c.r)
		if err != nil {
			return err
		}
		if h.opcode != opBinary && h.opcode != 0 {
			return fmt.Errorf("got unexpected opcode %#x", h.opcode)
		}
		if _, err := io.CopyN(io.Discard, c.r, h.length); err != nil {
			return err
		}
		n -= h.length
	}
	return nil
}

// close performs the closing handshake and waits for the proxy to hang up.
func (c *client) close() error {
	defer closeQuietly(c.conn)
	normal := []byte{0x03, 0xe8} // 1000
	if _, err := c.conn.Write(appendFrame(nil, opClose, &clientMask, normal)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c.r)
	return err
}

// checkAlive makes sure that tunnels work, by asking one of 50. It goes on after one that is
// dead, as it tells much how many are, but not after one that does not answer.
func checkAlive(clients []*client) error {
	var first error
	asked, dead := 0, 0
	for i := 0; i < len(clients) && !errors.Is(first, os.ErrDeadlineExceeded); i += 50 {
		asked++
		_ = clients[i].conn.SetDeadline(time.Now().Add(handshakeLimit)) // the first one may have passed
		if err := clients[i].echo(newMessage(smallSize)); err != nil {
			dead++
			first = cmp.Or(first, fmt.Errorf("tunnel %d: %w", i, err))
		}
	}
	if first != nil {
		return fmt.Errorf("%d of %d tunnels are dead that were asked: %w", dead, asked, first)
	}
	return nil
}

// closeQuietly closes what is of no use any more, whatever comes of that.
func closeQuietly(c io.Closer) { _ = c.Close() }

// closeAll hangs up without ceremony.
func closeAll(clients []*client) {
	for _, c := range clients {
		closeQuietly(c.conn)
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// bareBuffer is what a floor copies with, in each direction of a tunnel. net/http reads
// past a buffer of its own if this one is no smaller.
const bareBuffer = 4 << 10

// bareTunnels takes tunnels to upstreams in turn, and does nothing that is not needed for
// that. It checks nothing, limits nothing, counts nothing and trusts everybody.
type bareTunnels struct {
	Upstreams []string `json:"upstreams"`

	turn atomic.Uint32
}

// dial connects to the upstream whose turn it is.
func (b *bareTunnels) dial(ctx context.Context) (net.Conn, error) {
	i := int(b.turn.Add(1)) % len(b.Upstreams)
	// A context that could end would cost a goroutine.
	return new(net.Dialer).DialContext(context.WithoutCancel(ctx), "tcp", b.Upstreams[i])
}

// upgrade sends a handshake on as it has come, and copies from then on: the answer, too.
func (b *bareTunnels) upgrade(w http.ResponseWriter, r *http.Request) error {
	up, err := b.dial(r.Context())
	if err != nil {
		return err
	}
	defer func() { _ = up.Close() }()
	if _, err := up.Write(handshakeOf(r)); err != nil {
		return err
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	copyBoth(conn, buffered.Reader, up)
	return nil
}

// handshakeOf returns the bytes of a request without a body.
func handshakeOf(r *http.Request) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, r.URL.RequestURI(), r.Host)
	_ = r.Header.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}

// copyBoth copies until one side is done, closes both, and waits for the other direction.
func copyBoth(conn net.Conn, from io.Reader, up net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		bareCopy(up, from)
		_ = conn.Close() // for the other direction
		_ = up.Close()
	}()
	bareCopy(conn, up)
	_ = conn.Close()
	_ = up.Close()
	<-done
}

// bareCopy reads and writes, and does not splice: that costs more for small messages.
func bareCopy(to io.Writer, from io.Reader) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, bareBuffer))
}

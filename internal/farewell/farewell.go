// Package farewell refuses a handshake by a Close frame: it answers as if a tunnel were
// opened, and closes it. Scripts in browsers see neither a status nor a header field, so
// this is the only way to tell them why. It knows both forms of a handshake, and nothing
// of why one is refused. It has no lock.
package farewell

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/conn"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

const (
	// longest is how long one of them may take to take the Close, and to answer, besides the
	// time for which it is held.
	longest = 2 * time.Second
	// mostRead is how many bytes are read of a client that goes on sending.
	mostRead = 64 << 10
)

// ErrUnanswered is that a handshake has not been answered, as the connection is not to be
// had.
var ErrUnanswered = errors.New("the client cannot be told")

// Farewell is what a client is told.
type Farewell struct {
	Code uint16
	Text string
	// Hold is the time before the Close.
	Hold time.Duration
	// Offer is the client's, and Conn the connection of its stream, if it is one of
	// HTTP/2.
	Offer *handshake.Offer
	Conn  net.Conn
	// Begun is called when it is sure that the client is answered.
	Begun func()
}

// Tell accepts a handshake with the first subprotocol that was offered, without which a
// browser fails it (RFC 6455 section 4.1), and with no extension, and closes the tunnel.
// It holds the tunnel before that for as long as is said, unless the client closes it. It
// waits for the client's answer, until ctx ends or two seconds have passed.
func (f *Farewell) Tell(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(ctx, f.Hold+longest)
	defer cancel()
	if f.Offer.Stream {
		return f.tellStream(ctx, w, r)
	}
	return f.tellSocket(ctx, w)
}

func (f *Farewell) tellSocket(ctx context.Context, w http.ResponseWriter) error {
	hijacker, err := conn.Hijacker(w)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnanswered, err)
	}
	f.Begun()
	header := w.Header()
	header["Upgrade"], header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	header[handshake.FieldAccept] = []string{handshake.AcceptFor(f.Offer.Key)}
	f.accept(w, http.StatusSwitchingProtocols)
	taken, buffered, err := hijacker.Hijack()
	if err != nil {
		return fmt.Errorf("taking over the client's connection: %w", err)
	}
	// What has come already is read from where it is; to whom it comes later does not
	// matter.
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	side := conn.Socket{Conn: conn.Unwrap(taken)}
	defer side.Abort()
	defer context.AfterFunc(ctx, side.Abort)()
	if err := f.closeTunnel(ctx, side, io.MultiReader(bytes.NewReader(early), side)); err != nil {
		return err
	}
	return side.CloseWrite()
}

func (f *Farewell) tellStream(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	f.Begun()
	f.accept(w, http.StatusOK)
	s := conn.NewStream(ctx, w, r.Body, f.Conn)
	defer s.Detach()
	if err := s.Accept(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, s.Abort)()
	return f.closeTunnel(ctx, s, s)
}

// accept writes the header of the answer.
func (f *Farewell) accept(w http.ResponseWriter, status int) {
	if len(f.Offer.Subprotocols) > 0 {
		w.Header()[handshake.FieldProtocol] = f.Offer.Subprotocols[:1]
	}
	w.WriteHeader(status)
}

// closeTunnel sends the Close when it is time, and reads until the client's (RFC 6455
// section 7.1.1). It reads all the time, so that a client that goes is not held; one that
// sends too much is held all the same, as it would come back at once.
func (f *Farewell) closeTunnel(ctx context.Context, to io.Writer, from io.Reader) error {
	client := &reader{from: from, scanner: frame.NewScanner(true)}
	if f.Hold == 0 {
		if err := f.sendClose(to); err != nil {
			return err
		}
		return client.readClose()
	}
	read := make(chan error, 1)
	go func() { read <- client.readClose() }()
	timer := time.NewTimer(f.Hold)
	defer timer.Stop()
	select {
	case err := <-read:
		if err != nil || client.scanner.Closed() { // it has gone, or closed it
			return cmp.Or(err, f.sendClose(to))
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		return cmp.Or(f.sendClose(to), client.readClose())
	case <-timer.C:
	case <-ctx.Done(): // what aborts the connection ends the reading, too
		return cmp.Or(<-read, ctx.Err())
	}
	if err := f.sendClose(to); err != nil {
		return cmp.Or(err, <-read)
	}
	return <-read
}

func (f *Farewell) sendClose(to io.Writer) error {
	_, err := to.Write(frame.AppendClose(nil, f.Code, f.Text, nil))
	return err
}

// reader reads what a client sends.
type reader struct {
	from    io.Reader
	scanner frame.Scanner
}

// readClose reads until the client's Close, or until it is enough.
func (r *reader) readClose() error {
	buf := make([]byte, 512)
	for read := 0; read < mostRead && !r.scanner.Closed() && !r.scanner.Opaque(); {
		n, err := r.from.Read(buf)
		r.scanner.Scan(buf[:n])
		if err != nil {
			return err
		}
		read += n
	}
	return nil
}

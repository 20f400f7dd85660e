package forward

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/conn"
)

// Inform passes an informational response of an upstream's on (RFC 9110 section
// 15.2), with its own fields only: the server would send with it all that is set for
// the final response, by whatever handlers. For the same reason it goes past them. A
// client that does not read does not hold the handshake up beyond a time, if there is one.
func Inform(by time.Time, client http.ResponseWriter, resp *http.Response) {
	w := conn.Innermost(client)
	if !by.IsZero() {
		ctrl := http.NewResponseController(w)
		_ = ctrl.SetWriteDeadline(by) // where that is not known, there is none
		defer func() { _ = ctrl.SetWriteDeadline(time.Time{}) }()
	}
	header := w.Header()
	final := maps.Clone(header)
	clear(header)
	RemoveHopByHop(resp.Header)
	delete(resp.Header, "Content-Length") // RFC 9110 section 8.6
	maps.Copy(header, resp.Header)
	w.WriteHeader(resp.StatusCode)
	clear(header)
	maps.Copy(header, final)
}

// Source is where a body comes from.
type Source interface {
	io.Reader
	// SetReadDeadline sets the time by which the body has to go on.
	SetReadDeadline(t time.Time) error
}

// Body streams a body to the client until ctx ends. idle is how long nothing may
// come, and write how long the client may take nothing; zero means no limit.
func Body(ctx context.Context, w http.ResponseWriter, from Source, idle, write time.Duration) error {
	stop := context.AfterFunc(ctx, func() { _ = from.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ctrl := http.NewResponseController(w)
	buf := make([]byte, 8<<10)
	for {
		if err := from.SetReadDeadline(deadline(idle)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := from.Read(buf)
		if n > 0 {
			if werr := writeWithin(w, ctrl, buf[:n], write); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// writeWithin writes and flushes p within limit.
func writeWithin(w io.Writer, ctrl *http.ResponseController, p []byte, limit time.Duration) error {
	if limit > 0 {
		if err := ctrl.SetWriteDeadline(time.Now().Add(limit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
	}
	if _, err := w.Write(p); err != nil {
		return err
	}
	if err := ctrl.Flush(); err != nil {
		return err
	}
	if limit > 0 {
		// Over HTTP/2 it ends the stream also when nothing is being written.
		_ = ctrl.SetWriteDeadline(time.Time{})
	}
	return nil
}

// deadline returns the time in limit from now; no limit is no deadline.
func deadline(limit time.Duration) time.Time {
	if limit <= 0 {
		return time.Time{}
	}
	return time.Now().Add(limit)
}

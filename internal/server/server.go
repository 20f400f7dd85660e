// Package server is what is to be known of Caddy's HTTP servers, and is not passed to
// handlers: the connection of a request, the windows and idle timeouts of a stream, whether
// WebSockets are offered over HTTP/2, and when an HTTP/3 server ends. It has no lock.
package server

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/conn"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// connKey is where the context of a request has its connection.
type connKey struct{}

// KeepConns has the server of a handler put the connections into the contexts of requests,
// and give the streams of HTTP/2 their windows if there may be tunnels among them.
func KeepConns(ctx caddy.Context) error {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterConnContext(connContext(offered()))
	}
	return nil
}

func connContext(offered bool, err error) func(ctx context.Context, c net.Conn) context.Context {
	if err == nil && !offered {
		return keepConn // uploads of others would be slower for nothing
	}
	return newConnContext()
}

// newConnContext makes the function for one server. Windows are asked for by each
// connection after it, so they are set before the first asks.
func newConnContext() func(ctx context.Context, c net.Conn) context.Context {
	var windows sync.Once
	return func(ctx context.Context, c net.Conn) context.Context {
		windows.Do(func() { setWindowsOf(ctx) })
		return keepConn(ctx, c)
	}
}

func keepConn(ctx context.Context, c net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx // the server has more than one handler of ours
	}
	return context.WithValue(ctx, connKey{}, c)
}

// Conn is the connection of a request; nil if it has come over HTTP/3.
func Conn(ctx context.Context) net.Conn {
	if c, ok := ctx.Value(connKey{}).(net.Conn); ok {
		return conn.Unwrap(c)
	}
	return nil
}

// LiftIdleTimeouts lifts those of the server for the stream of a request, which are
// one minute: tunnels have their own. restore has to be called when the tunnel has
// ended, and nobody may read or write when either is.
//
// Moving a deadline that is never met would still cost six messages to the goroutine of
// the connection for each echo. So over HTTP/2, where none is left armed between calls,
// they are not moved at all, unless there are hard limits too, which only count if they are.
func LiftIdleTimeouts(ctx context.Context) (restore func()) {
	const never = 100 * 365 * 24 * time.Hour
	reader, writer := caddyhttp.IdleTimeoutsFromContext(ctx)
	var restorers []func()
	switch {
	case reader == nil:
	case reader.ClearBetweenReads && reader.Deadline.HardDeadline.IsZero():
		restorers = append(restorers, replace(&reader.Ctrl, unmoved))
	default:
		restorers = append(restorers, reader.Override(never, 0))
	}
	switch {
	case writer == nil:
	case writer.ClearBetweenWrites && writer.Deadline.HardDeadline.IsZero():
		restorers = append(restorers, replace(&writer.Ctrl, unmoved))
	default:
		restorers = append(restorers, writer.Override(never, 0, 0))
	}
	return func() {
		for _, f := range restorers {
			f()
		}
	}
}

// KeepDeadlines has nobody move those of the stream of a request any more, which was taken
// from its server: handlers in front would put their own back when ours returns.
func KeepDeadlines(ctx context.Context) {
	reader, writer := caddyhttp.IdleTimeoutsFromContext(ctx)
	if reader != nil {
		reader.Ctrl = unmoved
	}
	if writer != nil {
		writer.Ctrl = unmoved
	}
}

// replace puts another controller in the place of one until restore is called.
func replace(at **http.ResponseController, by *http.ResponseController) (restore func()) {
	own := *at
	*at = by
	return func() { *at = own }
}

// unmoved controls deadlines that have no effect.
var unmoved = http.NewResponseController(noDeadlines{})

// noDeadlines is a response writer whose deadlines have no effect.
type noDeadlines struct{ http.ResponseWriter }

func (noDeadlines) SetReadDeadline(time.Time) error  { return nil }
func (noDeadlines) SetWriteDeadline(time.Time) error { return nil }

// HTTP3 is what a handler knows of the HTTP/3 server that it belongs to.
type HTTP3 struct {
	known atomic.Bool
	// stopping is closed when that server has begun to shut down: at the end of a
	// shutdown_delay, or of its configuration. It is nil where nothing tells.
	stopping chan struct{}
}

// Provision has the server tell when it shuts down.
func (h *HTTP3) Provision(ctx caddy.Context) error {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		stopping := make(chan struct{})
		h.stopping = stopping
		server.RegisterOnShutdown(sync.OnceFunc(func() { close(stopping) }))
	}
	return nil
}

// Note makes the server of an HTTP/3 request known to those who end the process, which
// wait for its clients no longer than the period. A handler has only one, so this is done once.
func (h *HTTP3) Note(ctx context.Context, live *tunnel.Registry, period time.Duration) {
	if h.known.Load() || h.known.Swap(true) {
		return
	}
	if server, ok := ctx.Value(http3.ServerContextKey).(*http3.Server); ok {
		live.NoteHTTP3Server(server, period, h.stopping)
	}
}

package websocketproxy

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/conn"
)

// connKey is where the context of a request has its connection.
type connKey struct{}

// keepConns has a server put the connections into the contexts of requests.
func keepConns(ctx caddy.Context) error {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterConnContext(keepConn)
	}
	return nil
}

func keepConn(ctx context.Context, c net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx // the server has more than one handler of ours
	}
	return context.WithValue(ctx, connKey{}, c)
}

// keptConn is the connection of a request; nil if it has come over HTTP/3.
func keptConn(ctx context.Context) net.Conn {
	if c, ok := ctx.Value(connKey{}).(net.Conn); ok {
		return conn.Unwrap(c)
	}
	return nil
}

// liftIdleTimeouts lifts those of the server for the stream of a request, which are
// one minute: tunnels have their own. restore has to be called when the tunnel has
// ended.
func liftIdleTimeouts(ctx context.Context) (restore func()) {
	const never = 100 * 365 * 24 * time.Hour
	reader, writer := caddyhttp.IdleTimeoutsFromContext(ctx)
	var restorers []func()
	if reader != nil {
		restorers = append(restorers, reader.Override(never, 0))
	}
	if writer != nil {
		restorers = append(restorers, writer.Override(never, 0, 0))
	}
	return func() {
		for _, f := range restorers {
			f()
		}
	}
}

// servedHTTP3 is what a handler knows of the HTTP/3 server that it belongs to.
type servedHTTP3 struct {
	known atomic.Bool
	// stopping is closed when that server has begun to shut down: at the end of a
	// shutdown_delay, or of its configuration. It is nil where nothing tells.
	stopping chan struct{}
}

func (h *Handler) provisionHTTP3(ctx caddy.Context) error {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		stopping := make(chan struct{})
		h.http3.stopping = stopping
		server.RegisterOnShutdown(sync.OnceFunc(func() { close(stopping) }))
	}
	return nil
}

// noteServer makes the server of an HTTP/3 request known to those who end the
// process. A handler has only one, so this is done once.
func (h *Handler) noteServer(ctx context.Context) {
	if h.http3.known.Load() || h.http3.known.Swap(true) {
		return
	}
	if server, ok := ctx.Value(http3.ServerContextKey).(*http3.Server); ok {
		h.live.NoteHTTP3Server(server, h.tunnelPolicy.Shutdown, h.http3.stopping)
	}
}

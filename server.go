package websocketproxy

import (
	"context"
	"net"
	"time"

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

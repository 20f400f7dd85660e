package websocketproxy

import (
	"context"
	"net"
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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

func keepConn(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx // the server has more than one handler of ours
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// keptConn is the connection of a request; nil if it has come over HTTP/3.
func keptConn(ctx context.Context) net.Conn {
	if conn, ok := ctx.Value(connKey{}).(net.Conn); ok {
		return bare(conn)
	}
	return nil
}

// bare returns the connection inside of the one that Caddy gives to
// connections of listeners without TLS and with only one of h1 and h2c, which
// passes bytes on as they are once the handler runs, but hides CloseWrite.
// The type is not exported; its field is.
func bare(conn net.Conn) net.Conn {
	v := reflect.ValueOf(conn)
	if v.Kind() != reflect.Pointer || v.Type().String() != "*caddyhttp.http2Conn" {
		return conn
	}
	field := v.Elem().FieldByName("Conn")
	if !field.IsValid() || !field.CanInterface() {
		return conn
	}
	if inner, ok := reflect.TypeAssert[net.Conn](field); ok {
		return inner
	}
	return conn
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

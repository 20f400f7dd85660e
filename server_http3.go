package websocketproxy

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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

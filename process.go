package websocketproxy

import (
	"context"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// liveTunnels are those of the process.
var liveTunnels = tunnel.NewRegistry(caddy.Exiting)

func init() {
	// Comes after everything else, also where the configuration that was loaded
	// last has no such handler.
	caddy.OnExit(func(context.Context) { <-liveTunnels.ShutDown() })
}

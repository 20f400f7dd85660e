package websocketproxy

import (
	"context"

	"go.uber.org/zap"

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

// hosts is what is known of the addresses of upstreams in the process.
var hosts = newHostTable(nil)

func init() {
	hosts.changed = changed // which asks hosts
}

// changed acts on what has become different at an address by itself.
func changed(c change) {
	switch c.kind {
	case addressDown:
		evictions.unhealthy(c.address)
	case addressTried:
		reporters.newest().Info("upstream is tried again", zap.String("upstream", c.address))
		recovered(c.endpoints)
	case addressUp:
		recovered(c.endpoints)
	}
}

package websocketproxy

import (
	"context"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// liveTunnels are those of the process.
var liveTunnels = tunnel.NewRegistry(caddy.Exiting)

func init() {
	// Comes after everything else, also where the configuration that was loaded
	// last has no such handler.
	caddy.OnExit(func(context.Context) { <-liveTunnels.ShutDown() })
}

// hosts is what is known of the addresses of upstreams in the process.
var hosts = upstream.NewTable(nil)

func init() {
	hosts.Changed = changed // which asks hosts
}

// changed acts on what has become different at an address by itself.
func changed(c upstream.Change) {
	switch c.Kind {
	case upstream.AddressDown:
		evictions.Unhealthy(c.Address)
	case upstream.AddressTried:
		reporters.newest().Info("upstream is tried again", zap.String("upstream", c.Address))
		evictions.Recovered(c.Endpoints)
	case upstream.AddressUp:
		evictions.Recovered(c.Endpoints)
	}
}

// evictions end tunnels of the process.
var evictions = evict.New(hosts, liveTunnels)

// clients are counted in the whole process.
var clients = upstream.NewClients()

// checkers are those of the process.
var checkers = health.NewCheckers()

package websocketproxy

import (
	"context"

	"github.com/caddyserver/caddy/v2"
)

// liveTunnels are those of the process.
var liveTunnels = newRegistry(caddy.Exiting)

func init() {
	// Comes after everything else, also where the configuration that was loaded
	// last has no such handler.
	caddy.OnExit(func(context.Context) { <-liveTunnels.shutDown() })
}

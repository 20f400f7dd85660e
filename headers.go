package websocketproxy

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
)

// headersProblem prepares header operations, and returns what is wrong with them, if
// anything. It does not change what they say.
func headersProblem(h *headers.Handler) string {
	if err := h.Provision(caddy.Context{}); err != nil {
		return err.Error()
	}
	if err := h.Validate(); err != nil {
		return err.Error()
	}
	return ""
}

package websocketproxy

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// ownRequestFields are those that the request for the upstream has from the handshake,
// or from net/http, whatever operations do to them.
var ownRequestFields = []string{
	"Upgrade", "Connection", handshake.FieldKey, handshake.FieldVersion, handshake.FieldAccept,
	"Content-Length", "Transfer-Encoding", "Trailer",
}

// ownResponseFields are those of the answer to the client. Operations on Connection
// have an effect on answers other than 101.
var ownResponseFields = []string{"Upgrade", handshake.FieldAccept}

// headersProblem prepares header operations, and returns what is wrong with them, if
// anything. It does not change what they say.
func headersProblem(h *headers.Handler) string {
	if err := h.Provision(caddy.Context{}); err != nil {
		return err.Error()
	}
	if err := h.Validate(); err != nil {
		return err.Error()
	}
	const noEffect = "%s cannot be changed in the %s, as the handshake decides about it; remove it"
	if field := firstOf(h.Request, ownRequestFields); field != "" {
		return fmt.Sprintf(noEffect, field, "request")
	}
	if h.Response == nil {
		return ""
	}
	if field := firstOf(h.Response.HeaderOps, ownResponseFields); field != "" {
		return fmt.Sprintf(noEffect, field, "answer")
	}
	return ""
}

// firstOf returns the first of some fields that operations name, if they name any. A
// wildcard may mean others.
func firstOf(ops *headers.HeaderOps, fields []string) string {
	if ops == nil {
		return ""
	}
	var named []string
	for _, names := range [][]string{
		slices.Collect(maps.Keys(ops.Add)), slices.Collect(maps.Keys(ops.Set)), ops.Delete, slices.Collect(maps.Keys(ops.Replace)),
	} {
		for _, name := range names {
			named = append(named, http.CanonicalHeaderKey(name))
		}
	}
	for _, field := range fields {
		if slices.Contains(named, http.CanonicalHeaderKey(field)) {
			return field
		}
	}
	return ""
}

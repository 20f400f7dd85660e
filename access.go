package websocketproxy

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// access is the compiled form of Access.
type access struct {
	requireUpgrade bool
	origins        handshake.Origins
	subprotocols   []string
}

func newAccess(cfg *Access) (access, error) {
	a := access{requireUpgrade: cfg.RequireUpgrade, subprotocols: cfg.Subprotocols}
	for i, s := range cfg.Origins {
		if !a.origins.Add(s) {
			return a, fmt.Errorf("access.origins[%d]: %q is not an origin; "+
				"write same, null, file://, https://example.com or https://*.example.com", i, s)
		}
	}
	for i, s := range cfg.Subprotocols {
		if !handshake.IsToken(s) {
			return a, fmt.Errorf("access.subprotocols[%d]: %q is not a token, such as graphql-ws", i, s)
		}
	}
	return a, nil
}

// clientHandshake is a client's valid request for a tunnel.
type clientHandshake struct {
	handshake.Offer

	// tunnelID is the id of the tunnel that it may become.
	tunnelID string
	// place is the client's among its tunnels, until a tunnel has it.
	place *clientPlace
	// client is where informational responses go.
	client http.ResponseWriter
}

// checkHandshake checks a request for a WebSocket.
func (h *Handler) checkHandshake(r *http.Request) (*clientHandshake, *refusal) {
	offered, err := handshake.Check(r)
	if err == nil {
		err = h.access.origins.Check(r, h.isSecure)
	}
	if err == nil {
		err = offered.Restrict(h.access.subprotocols)
	}
	if err != nil {
		return nil, refuseHandshake(err, offered.Stream)
	}
	return &clientHandshake{Offer: offered, tunnelID: rand.Text()[:16]}, nil
}

// isSecure reports whether the client is known to have sent r by TLS: to Caddy, or to a
// trusted proxy in front of it that says so. What that says is about the client;
// how it reaches Caddy itself is not.
func (h *Handler) isSecure(r *http.Request) bool {
	if values := r.Header["X-Forwarded-Proto"]; len(values) > 0 {
		if h.peerOf(r).Trusted {
			return strings.EqualFold(values[len(values)-1], "https")
		}
	}
	return r.TLS != nil
}

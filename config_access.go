package websocketproxy

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Access says which handshakes are accepted.
type Access struct {
	// Origins of web pages whose scripts may connect (RFC 6455 section 10.2):
	// `same` for pages of the same host and port as the request's Host, and by
	// https if the request came by TLS or a trusted proxy says that in
	// X-Forwarded-Proto; `https://example.com`, `https://example.com:8443`, or
	// `https://*.example.com` for all subdomains; `null` for documents without
	// an origin, `file://` for applications that wrap a browser. Others get 403. A request without an Origin field does not
	// come from a browser and is accepted. Default: any origin.
	Origins []string `json:"origins,omitempty"`

	// Subprotocols that may be spoken. Others that a client offers are not
	// passed on to the upstream; a client that offers only others gets 400,
	// one that offers none is accepted. Default: any.
	Subprotocols []string `json:"subprotocols,omitempty"`

	// If true, a request that is not a WebSocket handshake gets 426 instead of
	// going to the next handler. Default: false.
	RequireUpgrade bool `json:"require_upgrade,omitempty"`
}

func (h *Handler) checkAccess() error {
	if h.Access == nil {
		return nil
	}
	_, err := newAccess(h.Access)
	return err
}

func (h *Handler) checkHeaders() error {
	if h.Headers == nil {
		return nil
	}
	if problem := headersProblem(h.Headers); problem != "" {
		return errors.New("headers: " + problem)
	}
	return nil
}

func (h *Handler) checkTrustedProxies() error {
	if len(h.TrustedProxies) > 0 && h.Limits != nil && h.Limits.MaxTunnelsPerClient > 0 {
		return errors.New("trusted_proxies: does not count for max_tunnels_per_client, which would take each of these " +
			"proxies for one client; name them in the server's own trusted_proxies instead, with trusted_proxies_strict: " +
			"in a Caddyfile, both are in the global option servers")
	}
	for i, expr := range h.TrustedProxies {
		if _, err := trustedRange(expr); err != nil {
			return fmt.Errorf("trusted_proxies[%d]: %w", i, err)
		}
	}
	return nil
}

// trustedRange parses the addresses of a proxy, or of several.
func trustedRange(expr string) (netip.Prefix, error) {
	prefix, err := caddyhttp.CIDRExpressionToPrefix(expr)
	if err != nil {
		return prefix, fmt.Errorf("%q is neither an address nor a range of some, such as 10.0.0.0/8", expr)
	}
	return prefix, nil
}

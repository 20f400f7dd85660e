package websocketproxy

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// MatchWebSocket matches requests for a WebSocket: an HTTP/1.1 request whose
// Upgrade field names `websocket` and whose Connection field names `upgrade`,
// or an extended CONNECT for WebSocket over HTTP/2 or HTTP/3. These are the
// requests that `websocket_proxy` does not hand to the next handler, also if
// they are malformed. It also matches what is no handshake, such as an HTTP/1.0
// request with these fields, but becomes a tunnel in `reverse_proxy`.
type MatchWebSocket struct{}

// CaddyModule returns the Caddy module information.
func (*MatchWebSocket) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.websocket",
		New: func() caddy.Module { return new(MatchWebSocket) },
	}
}

// MatchWithError returns true if r asks for a WebSocket. It never fails.
func (*MatchWebSocket) MatchWithError(r *http.Request) (bool, error) {
	return handshake.IsWebSocket(r) || handshake.IsUpgradeOfHTTP10(r), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	websocket
func (*MatchWebSocket) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() {
			return d.ArgErr()
		}
		if d.NextBlock(0) {
			return d.Err("websocket has no options")
		}
	}
	return nil
}

// Interface guards
var (
	_ caddyhttp.RequestMatcherWithError = (*MatchWebSocket)(nil)
	_ caddyfile.Unmarshaler             = (*MatchWebSocket)(nil)
)

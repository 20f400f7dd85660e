//go:build ignore

// This is Caddy with its standard modules and one that does the least that makes a tunnel:
// the floor for a module of Caddy. It is built with the Caddy that the module above is
// built with, from the folder above, together with floor_tunnel.go.
package main

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddy.RegisterModule(new(floor))
	httpcaddyfile.RegisterHandlerDirective("floor", parseFloor)
	httpcaddyfile.RegisterDirectiveOrder("floor", httpcaddyfile.Before, "reverse_proxy")
	caddycmd.Main()
}

// floor is the handler.
type floor struct {
	bareTunnels
}

func (*floor) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.floor", New: func() caddy.Module { return new(floor) }}
}

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return f.upgrade(w, r)
}

// parseFloor parses "floor <upstreams...>".
func parseFloor(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // the directive's name
	f := new(floor)
	f.Upstreams = h.RemainingArgs()
	return f, nil
}

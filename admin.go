package websocketproxy

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

// adminAPI is the part of Caddy's admin endpoint where operators see and close
// tunnels, and empty upstreams:
//
//   - `GET /websocket_proxy/upstreams` lists upstreams
//   - `POST /websocket_proxy/upstreams/state` sets one to `ready`, `drain`, `maint`
//     or `evict`
//   - `GET /websocket_proxy/tunnels` lists tunnels, or those that match
//     `upstream`, `client` (an IP address or CIDR range), `handler` and `label`
//     (`user=alice`); `limit` and `after` page through them, `group` adds them up
//   - `GET /websocket_proxy/tunnels/{id}` shows one
//   - `DELETE /websocket_proxy/tunnels/{id}` closes one, with `code` and `reason`
//   - `POST /websocket_proxy/tunnels/close` closes those that match, paced
//   - `POST /websocket_proxy/tunnels/renew` has those that match expire later
//
// It exists with every configuration and is about the whole process.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.websocket_proxy",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Provision has the metrics shown, also where no handler is in the configuration.
func (*adminAPI) Provision(ctx caddy.Context) error { return showMetrics(ctx) }

// Routes returns the routes of the API. Everything that they use belongs to the
// process, as nobody tells this module when its configuration is unloaded.
func (*adminAPI) Routes() (routes []caddy.AdminRoute) {
	for _, route := range admin.Routes(process.shown()) {
		routes = append(routes, caddy.AdminRoute{Pattern: route.Pattern, Handler: adminHandler(route.ServeHTTP)})
	}
	return routes
}

// adminHandler gives refusals the form of Caddy's errors.
func adminHandler(serve admin.HandlerFunc) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := serve(w, r)
		if refusal, ok := errors.AsType[*admin.Error](err); ok {
			return caddy.APIError{HTTPStatus: refusal.Status, Err: refusal.Err, Message: refusal.Error()}
		}
		return err
	}
}

// Interface guards
var (
	_ caddy.Module      = (*adminAPI)(nil)
	_ caddy.Provisioner = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)

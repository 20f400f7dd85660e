package guest

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// PoolUpstreams provides `reverse_proxy` with the upstreams of a
// `websocket_proxy`, as that would use them now for a newcomer's tunnel: not those
// that an operator has taken out (`drain`, `maint`, `evict`), nor those that are
// unhealthy or were not found any more, and backups only if there is nothing else. One in
// `drain` is given for requests of clients that belong there, by a sticky policy of the
// pool. It is for requests that have to reach the upstream where the client's WebSocket is,
// or will be, such as the polling of Socket.IO: with the selection policy
// `websocket_proxy`, both handlers choose the same upstream.
//
// An upstream that has as many tunnels as it may have stays in the list: its
// clients go on polling there.
type PoolUpstreams struct {
	// The `name` of the `websocket_proxy`, in the same configuration. If several
	// have it, their upstreams are put together. Required.
	Pool string `json:"pool,omitempty"`

	config <-chan struct{} // closed when the configuration is unloaded
	find   FindFunc
}

// FindFunc returns what the pools with a name use for a request, in the configuration
// that ends with the channel.
type FindFunc func(r *http.Request, pool string, config <-chan struct{}) ([]string, error)

// NewPoolUpstreams makes a source that is asked by find.
func NewPoolUpstreams(pool string, find FindFunc) *PoolUpstreams {
	return &PoolUpstreams{Pool: pool, find: find}
}

// CaddyModule returns the Caddy module information.
func (u *PoolUpstreams) CaddyModule() caddy.ModuleInfo {
	find := u.find
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams." + PoolSource,
		New: func() caddy.Module { return NewPoolUpstreams("", find) },
	}
}

// Provision sets up the source. Whether there is such a pool turns out later.
func (u *PoolUpstreams) Provision(ctx caddy.Context) error {
	u.config = ctx.Done()
	return tellApp(ctx, u.Pool)
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	dynamic websocket_proxy <name>
func (u *PoolUpstreams) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	pool, err := poolName(d, "dynamic")
	u.Pool = pool
	return err
}

// App is the app of the handlers, which has the name PoolSource, too. It knows whom
// reverse_proxy asks, and when all handlers are loaded.
type App interface{ AddAsked(pool string) }

// tellApp tells the app which pool is asked, as modules are provisioned in any order.
func tellApp(ctx caddy.Context, pool string) error {
	if pool == "" {
		return errors.New("pool: is empty; give the name of a websocket_proxy")
	}
	mod, err := ctx.App(PoolSource)
	if err != nil {
		return err
	}
	app, ok := mod.(App)
	if !ok {
		return fmt.Errorf("the app %s is a %T", PoolSource, mod)
	}
	app.AddAsked(pool)
	return nil
}

// poolName reads the name of a pool, behind that of a module of reverse_proxy, which an option
// names.
func poolName(d *caddyfile.Dispenser, option string) (string, error) {
	d.Next() // consume the module's name
	if !d.NextArg() {
		return "", d.Errf("%s websocket_proxy needs the name of a websocket_proxy; "+
			"give that one a name with its option name", option)
	}
	name := d.Val()
	switch {
	case name == "":
		return "", d.Errf("%s websocket_proxy has an empty name; give it that of a websocket_proxy", option)
	case d.NextArg():
		return "", d.Errf("%s websocket_proxy has too many arguments: %s", option, d.Val())
	case d.NextBlock(d.Nesting()):
		return "", d.Errf("%s websocket_proxy has no block", option)
	}
	return name, nil
}

// GetUpstreams implements reverseproxy.UpstreamSource.
func (u *PoolUpstreams) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	dials, err := u.find(r, u.Pool, u.config)
	if err != nil {
		return nil, err
	}
	upstreams := make([]*reverseproxy.Upstream, len(dials))
	for i, dial := range dials {
		upstreams[i] = &reverseproxy.Upstream{Dial: dial}
	}
	return upstreams, nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*PoolUpstreams)(nil)
	_ caddyfile.Unmarshaler       = (*PoolUpstreams)(nil)
	_ reverseproxy.UpstreamSource = (*PoolUpstreams)(nil)
)

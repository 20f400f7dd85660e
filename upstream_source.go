package websocketproxy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
)

// PoolUpstreams provides `reverse_proxy` with the upstreams of a
// `websocket_proxy`, as that would use them now for a new tunnel: not those that
// an operator has drained or evicted, nor those that are unhealthy or were not
// found any more, and backups only if there is nothing else. It is for requests
// that have to reach the upstream where the client's WebSocket is, or will be,
// such as the polling of Socket.IO: with the same selection policy, such as
// `cookie` or `client_ip_hash`, both handlers choose the same upstream.
//
// An upstream that has as many tunnels as it may have stays in the list: its
// clients go on polling there.
type PoolUpstreams struct {
	// The `name` of the `websocket_proxy`, in the same configuration. If several
	// have it, their upstreams are put together. Required.
	Pool string `json:"pool,omitempty"`

	config <-chan struct{} // closed when the configuration is unloaded
}

// CaddyModule returns the Caddy module information.
func (*PoolUpstreams) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams." + guest.PoolSource,
		New: func() caddy.Module { return new(PoolUpstreams) },
	}
}

// Provision sets up the source. Whether there is such a pool turns out later, as
// modules are provisioned in any order.
func (u *PoolUpstreams) Provision(ctx caddy.Context) error {
	if u.Pool == "" {
		return errors.New("pool: is empty; give the name of a websocket_proxy")
	}
	u.config = ctx.Done()
	return nil
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	dynamic websocket_proxy <name>
func (u *PoolUpstreams) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the source's name
	if !d.NextArg() {
		return d.Err("dynamic websocket_proxy needs the name of a websocket_proxy; give that one a name with its option name")
	}
	if u.Pool = d.Val(); u.Pool == "" {
		return d.Err("dynamic websocket_proxy has an empty name; give it that of a websocket_proxy")
	}
	if d.NextArg() {
		return d.Errf("dynamic websocket_proxy has too many arguments: %s", d.Val())
	}
	if d.NextBlock(d.Nesting()) {
		return d.Err("dynamic websocket_proxy has no block")
	}
	return nil
}

// GetUpstreams implements reverseproxy.UpstreamSource.
func (u *PoolUpstreams) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	pools := process.evictor.Named(u.Pool, u.config)
	if len(pools) == 0 {
		return nil, fmt.Errorf("no websocket_proxy of this configuration has the name %q; "+
			"write `name %s` into the one that is meant", u.Pool, u.Pool)
	}
	process.operators.Await(r.Context())
	var dials []string
	var problems []error
	for _, p := range pools {
		h, _ := p.Handler.(*Handler) // which all of them are
		some, err := h.usable(r)
		problems = append(problems, err)
		for _, dial := range some {
			if !slices.Contains(dials, dial) {
				dials = append(dials, dial)
			}
		}
	}
	if len(dials) == 0 {
		// Without an error, reverse_proxy says by itself that there are none.
		return nil, errors.Join(problems...)
	}
	upstreams := make([]*reverseproxy.Upstream, len(dials))
	for i, dial := range dials {
		upstreams[i] = &reverseproxy.Upstream{Dial: dial}
	}
	return upstreams, nil
}

// usable returns the upstreams that the pool would use for a request, spelled as
// selection policies see them: they hash that. Placeholders are left for
// reverse_proxy, which replaces them after its choice.
func (h *Handler) usable(r *http.Request) ([]string, error) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return nil, errors.New("the request has no placeholders")
	}
	c, err := h.pool.Candidates(expander(repl))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if refused := h.discover(r.Context(), c, r); refused != nil && c.Count() == 0 {
		return nil, refused
	}
	return c.Usable(), nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*PoolUpstreams)(nil)
	_ caddyfile.Unmarshaler       = (*PoolUpstreams)(nil)
	_ reverseproxy.UpstreamSource = (*PoolUpstreams)(nil)
)

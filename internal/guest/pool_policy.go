package guest

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// PoolPolicy has a `websocket_proxy` choose the upstreams of `reverse_proxy`, so that both
// choose the same: a client that the policy of that one knows comes to its upstream, and
// another one where a new tunnel would come now. It sets the cookie that goes with it. For
// requests that have to reach the upstream where the client's WebSocket is, or will be, such
// as the polling of Socket.IO, with the upstreams that the source `websocket_proxy` gives.
type PoolPolicy struct {
	// The `name` of the `websocket_proxy`, in the same configuration. If several have it,
	// the first one that has an upstream chooses. Required.
	Pool string `json:"pool,omitempty"`

	config <-chan struct{} // closed when the configuration is unloaded
	logger *slog.Logger
	ask    AskFunc
}

// AskFunc returns which upstream the pools with a name choose for a request, spelled as in
// their configuration, of those that may be, and the fields of the answer that go with it.
type AskFunc func(r *http.Request, pool string, config <-chan struct{}, may func(dial string) bool) (string, http.Header, error)

// NewPoolPolicy makes a policy that asks with ask.
func NewPoolPolicy(ask AskFunc) *PoolPolicy { return &PoolPolicy{ask: ask} }

// CaddyModule returns the Caddy module information.
func (p *PoolPolicy) CaddyModule() caddy.ModuleInfo {
	ask := p.ask
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.selection_policies." + PoolSource,
		New: func() caddy.Module { return NewPoolPolicy(ask) },
	}
}

// Provision sets up the policy. Whether there is such a pool turns out later.
func (p *PoolPolicy) Provision(ctx caddy.Context) error {
	p.config, p.logger = ctx.Done(), ctx.Slogger()
	return tellApp(ctx, p.Pool)
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy websocket_proxy <name>
func (p *PoolPolicy) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	pool, err := poolName(d, "lb_policy")
	p.Pool = pool
	return err
}

// triedVar is the variable with the upstreams that were chosen for a request. If it is asked
// for again, they have failed, and others come first: one that cannot be reached has no
// tunnels, and would be chosen each time.
const triedVar = "websocket_proxy.tried"

// Select implements reverseproxy.Selector.
func (p *PoolPolicy) Select(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	available := make(map[string]*reverseproxy.Upstream, len(pool))
	for _, up := range slices.Backward(pool) {
		if up.Available() {
			available[up.Dial] = up
		}
	}
	tried, _ := caddyhttp.GetVar(r.Context(), triedVar).([]string)
	dial, fields, err := p.ask(r, p.Pool, p.config, func(dial string) bool {
		return available[dial] != nil && !slices.Contains(tried, dial)
	})
	if dial == "" && err == nil && len(tried) > 0 {
		dial, fields, err = p.ask(r, p.Pool, p.config, func(dial string) bool { return available[dial] != nil })
	}
	if err != nil {
		p.logger.ErrorContext(r.Context(), "no upstream was chosen", "pool", p.Pool, "error", err)
		return nil
	}
	up := available[dial]
	if up == nil {
		return nil
	}
	caddyhttp.SetVar(r.Context(), triedVar, append(slices.Clone(tried), dial))
	if w != nil { // a policy whose fallback this is may have none
		setCookies(w.Header(), fields["Set-Cookie"])
	}
	return up
}

// setCookies sets cookies instead of those of the same names, which are from an earlier choice
// for this request.
func setCookies(header http.Header, cookies []string) {
	for _, cookie := range cookies {
		name, _, _ := strings.Cut(cookie, "=")
		others := slices.DeleteFunc(header["Set-Cookie"], func(other string) bool {
			return strings.HasPrefix(other, name+"=")
		})
		header["Set-Cookie"] = append(others, cookie)
	}
}

// Interface guards
var (
	_ caddy.Provisioner     = (*PoolPolicy)(nil)
	_ caddyfile.Unmarshaler = (*PoolPolicy)(nil)
	_ reverseproxy.Selector = (*PoolPolicy)(nil)
)

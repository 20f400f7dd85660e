package dashboard

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Directive is the handler's in a Caddyfile.
const Directive = "websocket_dashboard"

// Register makes the directive known. It comes after what authenticates, and before what
// answers to everything.
func (b *Board) Register() {
	httpcaddyfile.RegisterHandlerDirective(Directive, func(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h := b.Module()
		return h, h.UnmarshalCaddyfile(helper.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder(Directive, httpcaddyfile.Before, "respond")
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	websocket_dashboard [<matcher>] [actions] {
//		hosts <names...>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	for d.NextArg() {
		if d.Val() != "actions" {
			return d.Errf("after %s comes actions or nothing, not %q", Directive, d.Val())
		}
		if h.Actions {
			return d.Err("actions is given twice")
		}
		h.Actions = true
	}
	for d.NextBlock(0) {
		if d.Val() != "hosts" {
			return d.Errf("unrecognized option %s; there is hosts", d.Val())
		}
		names := d.RemainingArgs()
		if len(names) == 0 {
			return d.Err("hosts needs at least one name")
		}
		for _, name := range names {
			if problem := nameProblem(name); problem != "" {
				return d.Errf("hosts: %s", problem)
			}
			if slices.Contains(h.Hosts, name) {
				return d.Errf("hosts: %q is given twice", name)
			}
			h.Hosts = append(h.Hosts, name)
		}
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)

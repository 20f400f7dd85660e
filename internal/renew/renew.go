// Package renew is the handler websocket_renew: behind the authentication that the
// tunnels' handshakes have passed too, it has tunnels of the same client expire later.
// It knows what a request says, and by [Backend] that there are tunnels. It has no lock.
package renew

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/label"
)

// Backend has the tunnels of a process.
type Backend interface {
	// Renew has the live tunnels that have all of these labels expire after so much more
	// time, but not later than when they have been open for longest, and returns how many
	// expire later than before. Labels whose values are not kept whole mean none.
	Renew(labels map[string]string, left, longest time.Duration) int
}

// defaultMax is how long a tunnel may have been open at most.
const defaultMax = 24 * time.Hour

// Handler has WebSocket tunnels of `websocket_proxy` expire later that have the same
// labels as the request: those of this process, with `expires`. It belongs behind the same
// authentication as these. It never refuses a request: that goes to the next handler,
// such as `respond`.
//
// It sets the placeholder `{http.websocket_renew.tunnels}`: how many tunnels expire later
// than before.
type Handler struct {
	// Labels that tunnels must have: all of them, with what the values are expanded to
	// for the request. Rather that of a session than that of a user, whose other sessions
	// would be prolonged too. One that is empty for a request, or is not kept whole, as it
	// has more than 128 bytes or control characters, means no tunnel. At least one is
	// required.
	Labels []*label.Label `json:"labels,omitempty"`

	// Time at which they expire from now on, as in `expires` of `websocket_proxy`. None
	// expires earlier than before. Required.
	At string `json:"at"`

	// How long a tunnel may have been open at most, whatever the time is. A negative value
	// means no limit; `max_lifetime` of `websocket_proxy` counts anyway. Default: 24h.
	Max caddy.Duration `json:"max,omitempty"`

	backend Backend
	log     *zap.Logger
}

// New makes the module, whose handlers have this backend.
func New(b Backend) *Handler { return &Handler{backend: b} }

// CaddyModule returns the Caddy module information.
func (h *Handler) CaddyModule() caddy.ModuleInfo {
	b := h.backend
	return caddy.ModuleInfo{
		ID:  "http.handlers.websocket_renew",
		New: func() caddy.Module { return New(b) },
	}
}

// Provision sets up the handler.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log = ctx.Logger()
	return nil
}

// Validate reports what is wrong with the configuration.
func (h *Handler) Validate() error {
	if len(h.Labels) == 0 {
		return errors.New("labels: there is none; say whose tunnels are renewed, such as user {http.auth.user.id}")
	}
	if err := label.Check(h.Labels); err != nil {
		return err
	}
	if h.At == "" {
		return errors.New("at: there is none; say until when by expires, such as {http.auth.user.exp}")
	}
	if err := expiry.CheckText(h.At, time.Now()); err != nil {
		return fmt.Errorf("at: %q %w", h.At, err)
	}
	return nil
}

// ServeHTTP renews tunnels, and has the next handler answer.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("http.websocket_renew.tunnels", h.renew(repl))
	return next.ServeHTTP(w, r)
}

// renew returns how many tunnels expire later than before.
func (h *Handler) renew(repl *caddy.Replacer) int {
	labels := make(map[string]string)
	for name, value := range label.Expanded(h.Labels, func(s string) string { return repl.ReplaceAll(s, "") }) {
		if value == "" {
			return 0 // nobody is known
		}
		labels[name] = value
	}
	now := time.Now()
	at, err := expiry.Parse(repl.ReplaceAll(h.At, ""), now)
	switch {
	case errors.Is(err, expiry.ErrMissing):
		return 0
	case err != nil:
		// The value is not shown, as it may be a token by mistake.
		h.log.Warn("tunnels are not renewed", zap.String("at", h.At), zap.Error(err))
		return 0
	}
	longest := time.Duration(h.Max)
	if longest == 0 {
		longest = defaultMax
	}
	return h.backend.Renew(labels, at.Sub(now), max(0, longest))
}

// ParseCaddyfile sets up a handler from Caddyfile tokens. Syntax:
//
//	websocket_renew [<matcher>] {
//		label   <name> <value>
//		expires <time>
//		max     <duration>|off
//	}
func ParseCaddyfile(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	d, h, given := helper.Dispenser, new(Handler), make(map[string]bool)
	d.Next()
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	for d.NextBlock(0) {
		option, line := d.Val(), d.RemainingArgs()
		if given[option] && option != "label" {
			return nil, d.Errf("%s is given twice", option)
		}
		given[option] = true
		if err := h.option(option, line); err != nil {
			return nil, d.WrapErr(err)
		}
		if err := label.Check(h.Labels); err != nil {
			return nil, d.WrapErr(err)
		}
	}
	if err := h.Validate(); err != nil {
		return nil, d.WrapErr(err)
	}
	return h, nil
}

func (h *Handler) option(name string, args []string) error {
	switch {
	case name == "label" && len(args) == 2:
		h.Labels = append(h.Labels, &label.Label{Name: args[0], Value: args[1]})
	case name == "label":
		return errors.New("label needs a name and a value, such as user {http.auth.user.id}")
	case name == "expires" && len(args) == 1:
		h.At = args[0]
	case name == "expires":
		return errors.New("expires needs one time, such as {http.auth.user.exp}")
	case name == "max" && len(args) == 1 && args[0] == "off":
		h.Max = -1
	case name == "max" && len(args) == 1:
		d, err := caddy.ParseDuration(args[0])
		if err != nil || d <= 0 {
			return fmt.Errorf("max is a duration such as 24h, or off, not %q", args[0])
		}
		h.Max = caddy.Duration(d)
	case name == "max":
		return errors.New("max needs one duration, such as 24h")
	default:
		return fmt.Errorf("unrecognized option %s; there are label, expires and max", name)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

package dashboard

import (
	"fmt"
	"net"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// moduleID is that of the handler.
const moduleID = "http.handlers.websocket_dashboard"

// Handler is a page where operators see what happens to WebSockets: whether something is
// wrong and since when, which upstream, how far an upstream is from being empty, whether
// clients come back, and why they are refused or cut. It is about the whole process.
//
// It protects nothing by itself: put what authenticates in front of it, such as
// `basic_auth`. Where nothing seems to, a warning is logged.
type Handler struct {
	// Whether operators can change something: give upstreams the states `ready`,
	// `drain`, `maint` and `evict`, and close tunnels. Default: false.
	Actions bool `json:"actions,omitempty"`

	// Names by which the page is asked for, besides those that the `host` matchers in
	// front of it name, IP addresses and `localhost`. Requests with another Host are
	// refused: otherwise a page of somebody else, whose name is made to mean this
	// server, could read it. Default: none.
	Hosts []string `json:"hosts,omitempty"`

	board  *Board
	ctx    caddy.Context
	logger *zap.Logger
	hosts  map[string]bool
	// front is what stands in front of it. It can be asked when everything has been
	// provisioned, by whoever comes first.
	front func() front
	used  bool // whether the board is
}

// Module is the handler to register, for which the board keeps what it shows.
func (b *Board) Module() *Handler { return &Handler{board: b} }

// CaddyModule returns the Caddy module information.
func (h *Handler) CaddyModule() caddy.ModuleInfo {
	board := h.board
	return caddy.ModuleInfo{ID: moduleID, New: func() caddy.Module { return board.Module() }}
}

// App starts and stops handlers, which Caddy does not.
type App interface{ AddDashboard(*Handler) }

// appID is the app that does.
const appID = "websocket_proxy"

// Provision sets up the handler.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.ctx, h.logger = ctx, ctx.Logger()
	h.hosts, h.front = make(map[string]bool), sync.OnceValue(h.inFront)
	for i, name := range h.Hosts {
		if problem := nameProblem(name); problem != "" {
			return fmt.Errorf("hosts[%d]: %s", i, problem)
		}
		h.hosts[strings.ToLower(name)] = true
	}
	mod, err := ctx.App(appID)
	if err != nil {
		return err
	}
	app, ok := mod.(App)
	if !ok {
		return fmt.Errorf("the app %s is a %T", appID, mod)
	}
	app.AddDashboard(h)
	return nil
}

// nameProblem says what is wrong with a name of a host; empty: nothing.
func nameProblem(name string) string {
	host, _, err := net.SplitHostPort(name)
	switch {
	case name == "":
		return "a name is empty"
	case strings.Contains(name, "/"):
		return fmt.Sprintf("%q is more than a name; leave out the scheme and the path", name)
	case err == nil:
		return fmt.Sprintf("%q has a port; the name alone counts: %q", name, host)
	case strings.ContainsAny(name, "*{} ,"):
		return fmt.Sprintf("%q is not one name; list each of them, without wildcards and placeholders", name)
	}
	return ""
}

// Start is told when the configuration is in force, and looks at what stands in front of
// the handler.
func (h *Handler) Start() {
	h.board.use()
	h.used = true
	if !h.front().authenticated {
		h.logger.Warn("nothing in front of the dashboard seems to authenticate its users; whoever reaches it sees "+
			"addresses of clients and upstreams; put basic_auth, forward_auth or client certificates in front of it",
			zap.Bool("actions", h.Actions))
	}
}

// Stop is told when it is not in force any more.
func (h *Handler) Stop() {
	if h.used {
		h.used = false
		h.board.release()
	}
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

// Package websocketproxy is an HTTP handler for Caddy that proxies WebSockets:
// it detects handshakes, picks an upstream, performs the handshake there, and
// runs the full-duplex tunnel itself.
//
// Requests that are not WebSocket handshakes go to the next handler, so it
// composes with reverse_proxy, file_server and the rest on the same route.
package websocketproxy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/cli"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/discovery"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/label"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/renew"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/server"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/told"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func init() {
	caddy.RegisterModule(new(Handler))
	caddy.RegisterModule(new(MatchWebSocket))
	caddy.RegisterModule(poolUpstreams(""))
	caddy.RegisterModule(guest.NewPoolPolicy(foresee))
	caddy.RegisterModule(renew.New(process.live))
	caddycmd.RegisterCommand(cli.ProxyCommand())
	caddycmd.RegisterCommand(cli.Command())
}

// Handler is a proxy for WebSockets (RFC 6455) over HTTP/1.1, HTTP/2 (RFC 8441)
// and HTTP/3 (RFC 9220). It balances tunnels over upstreams that speak
// WebSocket over HTTP/1.1; other requests go to the next handler.
//
// An open tunnel does not depend on the configuration it was opened under: it
// outlives reloads.
//
// It sets these placeholders, which may be used in header operations and logs:
//
//   - `{http.websocket_proxy.tunnel.id}`: the tunnel's id, as in its log line
//   - `{http.reverse_proxy.upstream.address}`: the chosen upstream, with network
//   - `{http.reverse_proxy.upstream.hostport}`: its host and port
//   - `{http.reverse_proxy.upstream.host}`, `{http.reverse_proxy.upstream.port}`
//   - `{http.reverse_proxy.upstream.requests}`: tunnels open to it, this one included
type Handler struct {
	// Name of this handler's pool where operators see its tunnels. Several
	// handlers may have the same. Default: none.
	Name string `json:"name,omitempty"`

	// Backends to balance tunnels over. At least one is required, or a source of
	// some.
	Upstreams []*Upstream `json:"upstreams,omitempty"`

	// Where more upstreams are found, besides those that are listed: `a`, `srv`,
	// `multi`, or another source that `reverse_proxy` has. It is asked in the
	// background: when it fails, or gives no address, what it has found last stays,
	// and addresses that it does not give any more get no new tunnels, and the
	// present ones are ended over `drain.evict_period`. If its configuration has
	// placeholders of the request, it is asked in each handshake, for at most 2
	// seconds, and its tunnels live until they end. Default: none.
	DynamicUpstreamsRaw json.RawMessage `json:"dynamic_upstreams,omitempty" caddy:"namespace=http.reverse_proxy.upstreams inline_key=source"`

	// How an upstream is chosen for a new tunnel.
	LoadBalancing *LoadBalancing `json:"load_balancing,omitempty"`

	// How is found out which upstreams can be used.
	HealthChecks *HealthChecks `json:"health_checks,omitempty"`

	// How long to wait for whom.
	Timeouts *Timeouts `json:"timeouts,omitempty"`

	// Pings for peers that are silent.
	Keepalive *Keepalive `json:"keepalive,omitempty"`

	// What a peer may send through a tunnel.
	Limits *Limits `json:"limits,omitempty"`

	// How tunnels end when the proxy ends them.
	Drain *Drain `json:"drain,omitempty"`

	// Which handshakes are accepted.
	Access *Access `json:"access,omitempty"`

	// Names and values by which operators find tunnels, at most 8. Default: none.
	Labels []*label.Label `json:"labels,omitempty"`

	// Until when a client may have its tunnel.
	Expiry *expiry.Rule `json:"expiry,omitempty"`

	// Changes to the header of the request that goes to the upstream, and of
	// the response that goes to the client, the 101 included. The fields that
	// make the handshake cannot be changed. Naming them is refused: Upgrade,
	// Connection, Sec-WebSocket-Key, -Accept and -Version, Content-Length,
	// Transfer-Encoding and Trailer in the request, Upgrade and
	// Sec-WebSocket-Accept in the response.
	Headers *headers.Handler `json:"headers,omitempty"`

	// IP ranges (CIDR or single addresses) of proxies in front of Caddy whose
	// X-Forwarded-* fields are kept, besides those of the server's own
	// `trusted_proxies`. The client's address in logs, in limits and for policies is
	// that of the server's, so they are refused with `limits.max_tunnels_per_client`.
	// Default: none.
	TrustedProxies []string `json:"trusted_proxies,omitempty"`

	// How upstreams are dialed: only `http`, the transport of `reverse_proxy`.
	// It gives the timeouts of dialing, resolvers, TLS, PROXY protocol and
	// local address; options that have no meaning for a tunnel are refused.
	// Default: http with its defaults.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	live           *tunnel.Registry
	pool           *upstream.Pool
	sourceModules  []*guest.Source // of the sources, by index
	sources        discovery.Sources
	guest          *guest.Policy  // nil: the pool has a policy of its own
	sticky         *sticky.Policy // nil: all clients are newcomers
	policy         *settings.OwnPolicy
	check          *activeCheck  // nil: none
	agents         *health.Check // nil: none
	reports        *told.Reports // nil: nobody goes by them
	loaded         *evict.Pool
	retry          settings.Retry
	access         access
	trustedProxies []netip.Prefix
	transport      *transport
	handshake      time.Duration
	tunnelPolicy   *tunnel.Options
	evictPolicy    *evict.Policy
	http3          server.HTTP3
	perClient      int // most tunnels of a client; zero means no limit
	doubts         settings.Doubts
	logger         *zap.Logger
	reporter       *reporter
	counted        *metrics.Config // while the configuration is in force
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.websocket_proxy",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger, h.live = ctx.Logger(), process.live
	if err := h.checkConfig(); err != nil {
		return err
	}
	for _, step := range []func(caddy.Context) error{
		server.KeepConns,
		server.TellHTTP2,
		h.http3.Provision,
		h.provisionTransport,
		h.provisionTrustedProxies,
		h.provisionAccess,
		h.provisionTunnels,
		h.provisionHealth,
		h.provisionPool, // takes references that Cleanup gives back, so it is late
		h.makeKnown,     // and here the handler becomes known to others
		h.provisionApp,
		showMetrics,
		h.logOddities,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	h.reporter = process.logs.add(h.logger)
	h.evictPolicy.Report, h.evictPolicy.ResetsAtOnce = h.reporter.tunnelClosed, h.reporter.resetsAtOnce
	return nil
}

func (h *Handler) provisionTrustedProxies(caddy.Context) error {
	for _, expr := range h.TrustedProxies {
		prefix, err := trustedRange(expr)
		if err != nil {
			return err
		}
		h.trustedProxies = append(h.trustedProxies, prefix)
	}
	return nil
}

func (h *Handler) provisionAccess(caddy.Context) (err error) {
	h.access, err = newAccess(cmp.Or(h.Access, new(Access)))
	return err
}

// provisionTunnels sets what a tunnel takes along.
func (h *Handler) provisionTunnels(caddy.Context) error {
	t, k := cmp.Or(h.Timeouts, new(Timeouts)), cmp.Or(h.Keepalive, new(Keepalive))
	ping := settings.OrDefault(k.PingInterval, 0)
	h.handshake = settings.OrDefault(t.Handshake, defaultHandshakeTimeout)
	h.tunnelPolicy = &tunnel.Options{
		Idle:        settings.OrDefault(t.Idle, defaultIdleTimeout),
		Write:       settings.OrDefault(t.Write, defaultWriteTimeout),
		HalfClose:   settings.OrDefault(t.HalfClose, defaultHalfCloseTimeout),
		Ping:        ping,
		PingTimeout: settings.OrDefault(k.PingTimeout, missedPings*ping),
		MaxLifetime: settings.OrDefault(t.MaxLifetime, 0),
		Jitter:      max(0, cmp.Or(t.LifetimeJitter, defaultLifetimeJitter)),
	}
	limits := cmp.Or(h.Limits, new(Limits))
	limits.apply(h.tunnelPolicy)
	h.perClient = max(0, limits.MaxTunnelsPerClient)
	h.evictPolicy = new(evict.Policy)
	cmp.Or(h.Drain, new(Drain)).apply(h.tunnelPolicy, h.evictPolicy)
	return nil
}

// provisionApp has Caddy start and stop what belongs to this configuration as
// long as it runs.
func (h *Handler) provisionApp(ctx caddy.Context) error {
	mod, err := ctx.App(statesAppID)
	if err != nil {
		return err
	}
	app, ok := mod.(*statesApp)
	if !ok {
		return fmt.Errorf("the app %s is a %T", statesAppID, mod)
	}
	app.handlers = append(app.handlers, h)
	return nil
}

// Cleanup gives back what Provision took. Tunnels of this handler live on, but
// for those whose upstream no configuration has any more, which begin to end. If
// the process exits, it waits until all have ended.
func (h *Handler) Cleanup() error {
	if h.loaded != nil {
		changes := process.evictor.Remove(h.loaded)
		if !caddy.Exiting() {
			logChanges(process.logs.newest(), changes)
		}
	}
	if caddy.Exiting() {
		<-process.live.ShutDown()
	}
	if h.pool != nil {
		orphaned := h.pool.Release()
		if h.sources.Release() || orphaned {
			process.evictor.Orphans()
		}
	}
	if h.reporter != nil {
		process.logs.remove(h.reporter)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

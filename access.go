package websocketproxy

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/forward"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/trace"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Access says which handshakes are accepted.
type Access struct {
	// Origins of web pages whose scripts may connect (RFC 6455 section 10.2):
	// `same` for pages of the same host and port as the request's Host, and by
	// https if the request came by TLS or a trusted proxy says that in
	// X-Forwarded-Proto; `https://example.com`, `https://example.com:8443`, or
	// `https://*.example.com` for all subdomains; `null` for documents without
	// an origin, `file://` for applications that wrap a browser. Others get 403. A request without an Origin field does not
	// come from a browser and is accepted. Default: any origin.
	Origins []string `json:"origins,omitempty"`

	// Subprotocols that may be spoken. Others that a client offers are not
	// passed on to the upstream; a client that offers only others gets 400,
	// one that offers none is accepted. Default: any.
	Subprotocols []string `json:"subprotocols,omitempty"`

	// If true, a request that is not a WebSocket handshake gets 426 instead of
	// going to the next handler. Default: false.
	RequireUpgrade bool `json:"require_upgrade,omitempty"`
}

// access is the compiled form of Access.
type access struct {
	requireUpgrade bool
	origins        handshake.Origins
	subprotocols   []string
}

func newAccess(cfg *Access) (access, error) {
	a := access{requireUpgrade: cfg.RequireUpgrade, subprotocols: cfg.Subprotocols}
	for i, s := range cfg.Origins {
		if !a.origins.Add(s) {
			return a, fmt.Errorf("access.origins[%d]: %q is not an origin; "+
				"write same, null, file://, https://example.com or https://*.example.com", i, s)
		}
	}
	for i, s := range cfg.Subprotocols {
		if !handshake.IsToken(s) {
			return a, fmt.Errorf("access.subprotocols[%d]: %q is not a token, such as graphql-ws", i, s)
		}
	}
	return a, nil
}

// clientHandshake is a client's request for a tunnel.
type clientHandshake struct {
	handshake.Offer
	account

	// tunnelID is the id of the tunnel that it may become.
	tunnelID string
	// place is the client's among its tunnels, until a tunnel has it.
	place *upstream.ClientPlace
	// attempt is the span of the handshake with an upstream; nil without one.
	attempt *trace.Attempt
	// expires is when the tunnel does; nil means never.
	expires *tunnel.Deadline
	// client is where informational responses go.
	client http.ResponseWriter
}

// account is what a handshake knows of how it has gone: for counts, log lines and traces.
type account struct {
	began    time.Time     // when it has come
	protocol string        // h1, h2 or h3
	queued   time.Duration // how long it was in the queue
	retries  int           // how many upstreams were tried, but for the first
	// upstreamTook is how long the last attempt took at its upstream, from dialing to
	// the answer or the failure.
	upstreamTook time.Duration

	// counts are those of its handler. underWay tells that it is counted there, and gaveUp
	// that it has waited in the queue for nothing.
	counts           *metrics.Handler
	underWay, gaveUp bool

	trace *trace.Handshake // nil: the request has no span
}

// openAccount begins the account of a request.
func (h *Handler) openAccount(r *http.Request) account {
	return account{
		began:    time.Now(),
		protocol: "h" + strconv.Itoa(r.ProtoMajor),
		counts:   process.metrics.Handler(h.Name),
		trace:    trace.Begin(r),
	}
}

// target is what the client has asked for, whatever handlers in front have made of the
// path.
func (a *account) target(r *http.Request) tunnel.Target {
	u := r.URL
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		u = original.URL
	}
	return tunnel.Target{Protocol: a.protocol, Host: r.Host, Path: u.EscapedPath()}.Shorten()
}

// course is how it has gone up to now.
func (a *account) course(r *http.Request) tunnel.Course {
	// Caddy makes an id when somebody asks for it, and nobody has to for us.
	id := caddyhttp.GetVar(r.Context(), "uuid")
	return tunnel.NewCourse(id, time.Since(a.began), a.upstreamTook, a.queued, a.retries)
}

// checkHandshake checks a request for a WebSocket, and notes what it offers.
func (h *Handler) checkHandshake(r *http.Request, hs *clientHandshake) *refusal {
	offered, err := handshake.Check(r)
	if err == nil {
		err = h.access.origins.Check(r, h.isSecure)
	}
	if err == nil {
		err = offered.Restrict(h.access.subprotocols)
	}
	if err != nil {
		return refuseHandshake(err, offered.Stream)
	}
	hs.Offer, hs.tunnelID = offered, rand.Text()[:16]
	return nil
}

// isSecure reports whether the client is known to have sent r by TLS: to Caddy, or to a
// trusted proxy in front of it that says so. What that says is about the client;
// how it reaches Caddy itself is not.
func (h *Handler) isSecure(r *http.Request) bool {
	if values := r.Header["X-Forwarded-Proto"]; len(values) > 0 {
		if h.peerOf(r).Trusted {
			return strings.EqualFold(values[len(values)-1], "https")
		}
	}
	return r.TLS != nil
}

func (h *Handler) checkAccess() error {
	if h.Access == nil {
		return nil
	}
	_, err := newAccess(h.Access)
	return err
}

func (h *Handler) checkTrustedProxies() error {
	if len(h.TrustedProxies) > 0 && h.Limits != nil && h.Limits.MaxTunnelsPerClient > 0 {
		return errors.New("trusted_proxies: does not count for max_tunnels_per_client, which would take each of these " +
			"proxies for one client; name them in the server's own trusted_proxies instead, with trusted_proxies_strict: " +
			"in a Caddyfile, both are in the global option servers")
	}
	for i, expr := range h.TrustedProxies {
		if _, err := trustedRange(expr); err != nil {
			return fmt.Errorf("trusted_proxies[%d]: %w", i, err)
		}
	}
	return nil
}

// trustedRange parses the addresses of a proxy, or of several.
func trustedRange(expr string) (netip.Prefix, error) {
	prefix, err := caddyhttp.CIDRExpressionToPrefix(expr)
	if err != nil {
		return prefix, fmt.Errorf("%q is neither an address nor a range of some, such as 10.0.0.0/8", expr)
	}
	return prefix, nil
}

// peerOf returns who a request has come from. It is trusted by the server's
// trusted_proxies, or by the handler's own.
func (h *Handler) peerOf(r *http.Request) forward.Peer {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return forward.PeerOf(r.RemoteAddr, trusted, h.trustedProxies)
}

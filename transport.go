package websocketproxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// transport performs handshakes with upstreams with the means of reverse_proxy's HTTP
// transport.
type transport struct {
	dial.Dialer

	http   *reverseproxy.HTTPTransport
	config string // its configuration, in one form however that was spelled
	// tellsRequest is set if what is said to an upstream before the handshake
	// depends on the request.
	tellsRequest bool
}

// refusedInTransport are the options of the HTTP transport that would be
// ignored or would break a tunnel, with what to use instead.
var refusedInTransport = map[string]string{
	"versions":           "a tunnel needs HTTP/1.1 to the upstream; leave it out",
	"network_proxy":      "tunnels are dialed directly; leave it out",
	"forward_proxy_url":  "tunnels are dialed directly; leave it out",
	"read_timeout":       "use idle_timeout of websocket_proxy",
	"write_timeout":      "use write_timeout of websocket_proxy, outside the transport",
	"max_conns_per_host": "use max_tunnels of an upstream",
}

func refusedOption(name string) error {
	return fmt.Errorf("transport.%s: %s", name, refusedInTransport[name])
}

func (h *Handler) provisionTransport(ctx caddy.Context) error {
	if len(h.TransportRaw) == 0 {
		h.TransportRaw = json.RawMessage(`{"protocol": "http"}`)
	}
	// Once it is loaded, the transport does not tell any more what it was given.
	var given struct {
		Protocol     string          `json:"protocol"`
		NetworkProxy json.RawMessage `json:"network_proxy"`
		KeepAlive    struct {
			ProbeInterval json.RawMessage `json:"probe_interval"`
		} `json:"keep_alive"`
	}
	understood := json.Unmarshal(h.TransportRaw, &given) == nil
	config := canonical(h.TransportRaw)
	if understood && len(given.NetworkProxy) > 0 {
		return refusedOption("network_proxy")
	}
	ownProbes := len(given.KeepAlive.ProbeInterval) > 0
	if understood && !ownProbes && given.Protocol == "http" {
		h.TransportRaw = withoutProbes(h.TransportRaw)
	}
	mod, err := ctx.LoadModule(h, "TransportRaw")
	if err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	carrier, ok := mod.(*reverseproxy.HTTPTransport)
	if !ok {
		return fmt.Errorf("transport: %T cannot carry a tunnel; use `http`", mod)
	}
	if h.transport, err = newTransport(carrier); err != nil {
		return err
	}
	h.transport.config = config
	h.transport.OwnProbes = understood && ownProbes
	return nil
}

// withoutProbes returns a transport's configuration with which it does not say how TCP
// probes silent peers, as that is said afterwards: once is enough.
func withoutProbes(raw json.RawMessage) json.RawMessage {
	var config, keepAlive map[string]json.RawMessage
	if json.Unmarshal(raw, &config) != nil || config == nil {
		return raw // the transport says what is wrong
	}
	if json.Unmarshal(config["keep_alive"], &keepAlive) != nil || keepAlive == nil {
		keepAlive = make(map[string]json.RawMessage)
	}
	keepAlive["probe_interval"] = json.RawMessage("-1")
	config["keep_alive"] = caddyconfig.JSON(keepAlive, nil)
	return caddyconfig.JSON(config, nil)
}

func newTransport(t *reverseproxy.HTTPTransport) (*transport, error) {
	// Provision has filled in the default.
	onlyHTTP1 := slices.Equal(t.Versions, []string{"1.1"})
	if !onlyHTTP1 && !slices.Equal(t.Versions, []string{"1.1", "2"}) {
		return nil, refusedOption("versions")
	}
	for name, set := range map[string]bool{
		"forward_proxy_url":  t.ForwardProxyURL != "",
		"read_timeout":       t.ReadTimeout != 0,
		"write_timeout":      t.WriteTimeout != 0,
		"max_conns_per_host": t.MaxConnsPerHost != 0,
	} {
		if set {
			return nil, refusedOption(name)
		}
	}
	d := dial.Dialer{
		Connect:       t.Transport.DialContext,
		Timeout:       time.Duration(t.DialTimeout),
		AnswerTimeout: time.Duration(t.ResponseHeaderTimeout),
		MaxHeader:     t.MaxResponseHeaderSize,
	}
	tellsRequest := t.ProxyProtocolEnabled()
	if t.TLS != nil {
		d.TLSTimeout = time.Duration(t.TLS.HandshakeTimeout)
		tellsRequest = tellsRequest || len(guest.RequestPlaceholders(t.TLS.ServerName)) > 0
	}
	return &transport{Dialer: d, http: t, tellsRequest: tellsRequest}, nil
}

// canonical returns JSON in a form in which spaces and the order of members make
// no difference.
func canonical(raw json.RawMessage) string {
	var value any
	if json.Unmarshal(raw, &value) == nil {
		if same, err := json.Marshal(value); err == nil {
			return string(same)
		}
	}
	return string(raw)
}

// targetOf is what is dialed for an address.
func targetOf(a upstream.Address) dial.Target {
	return dial.Target{Network: a.Network, Address: a.HostPort, Hostname: a.Hostname, Port: a.Port}
}

// dial connects to an upstream, with TLS where the configuration says so.
func (t *transport) dial(ctx context.Context, to dial.Target, repl *caddy.Replacer) (net.Conn, error) {
	return t.Dialer.Dial(ctx, to, t.tlsFor(to, repl))
}

// dialPlainly connects to what is no upstream, without TLS and the PROXY protocol.
func (t *transport) dialPlainly(ctx context.Context, a upstream.Address) (net.Conn, error) {
	if t.http.ProxyProtocolEnabled() {
		return new(net.Dialer).DialContext(ctx, a.Network, a.HostPort)
	}
	return t.Dialer.Dial(ctx, targetOf(a), nil)
}

// tlsFor returns the configuration of TLS with an upstream, or nil if there is none.
func (t *transport) tlsFor(to dial.Target, repl *caddy.Replacer) *tls.Config {
	if !t.useTLS(to) {
		return nil
	}
	cfg := cmp.Or(t.http.Transport.TLSClientConfig, new(tls.Config)).Clone()
	cfg.NextProtos = nil // HTTP/1.1; the transport has added h2
	cfg.ServerName = cmp.Or(repl.ReplaceAll(cfg.ServerName, ""), to.Hostname)
	return cfg
}

func (t *transport) useTLS(to dial.Target) bool {
	return t.http.TLS != nil && !slices.Contains(t.http.TLS.ExceptPorts, to.Port)
}

// mayBeTheClients reports whether a client may have had a part in a failure to
// connect to an address that does not depend on its request: with a server name
// that does, or because the PROXY protocol has told the upstream who it is, when
// the connection was there already.
func (t *transport) mayBeTheClients(err error) bool {
	// Caddy's transport hides what kind of error it met.
	return t.tellsRequest && !strings.HasPrefix(err.Error(), "dial ")
}

// setUpstream sets the placeholders that reverse_proxy sets for a chosen upstream,
// which has so many tunnels, may have most, and has failed so often. The operator's
// header operations may use them.
func setUpstream(repl *caddy.Replacer, a upstream.Address, tunnels, most, fails int) {
	repl.Set("http.reverse_proxy.upstream.address", caddy.JoinNetworkAddress(a.Network, a.Hostname, a.Port))
	repl.Set("http.reverse_proxy.upstream.hostport", a.HostPort)
	repl.Set("http.reverse_proxy.upstream.host", a.Hostname)
	repl.Set("http.reverse_proxy.upstream.port", a.Port)
	repl.Set("http.reverse_proxy.upstream.requests", tunnels)
	repl.Set("http.reverse_proxy.upstream.max_requests", max(0, most))
	repl.Set("http.reverse_proxy.upstream.fails", fails)
}

// expander makes addresses of those with placeholders.
func expander(repl *caddy.Replacer) func(dial string) (upstream.Address, error) {
	return func(dial string) (upstream.Address, error) {
		expanded := repl.ReplaceAll(dial, "")
		a, err := settings.ParseAddress(expanded)
		if err != nil {
			return a, fmt.Errorf("upstream %s became %q: %w", dial, expanded, err)
		}
		return a, nil
	}
}

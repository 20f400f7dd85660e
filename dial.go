package websocketproxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// dialer opens connections to upstreams with the means of reverse_proxy's HTTP
// transport.
type dialer struct {
	transport *reverseproxy.HTTPTransport
	config    string // the transport's, in one form however it was spelled
	// probes is set if the transport was given the interval of TCP's probes.
	probes bool
	// tellsRequest is set if what is said to an upstream before the handshake
	// depends on the request.
	tellsRequest bool
}

const (
	// keepaliveIdle is how long a connection is silent before TCP probes whether
	// its peer is still there, in place of Go's 15 seconds: those would be 70,000
	// probes a second for a million idle tunnels.
	keepaliveIdle = time.Minute
	// keepaliveInterval is the time between probes that are not answered.
	keepaliveInterval = 10 * time.Second
)

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

func newDialer(t *reverseproxy.HTTPTransport) (*dialer, error) {
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
	d := &dialer{transport: t, tellsRequest: t.ProxyProtocolEnabled()}
	if t.TLS != nil && len(requestPlaceholders(t.TLS.ServerName)) > 0 {
		d.tellsRequest = true
	}
	return d, nil
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

func refusedOption(name string) error {
	return fmt.Errorf("transport.%s: %s", name, refusedInTransport[name])
}

// dial connects to e, with TLS where the transport says so. The transport's
// dial_timeout is for both, unless there is a tls_timeout.
func (d *dialer) dial(ctx context.Context, e *endpoint, repl *caddy.Replacer) (net.Conn, error) {
	connecting, cancel := context.WithTimeout(ctx, time.Duration(d.transport.DialTimeout))
	defer cancel()
	conn, err := d.connect(connecting, e)
	if err != nil || !d.useTLS(e) {
		return conn, err
	}
	if timeout := time.Duration(d.transport.TLS.HandshakeTimeout); timeout > 0 {
		connecting, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	cfg := d.transport.Transport.TLSClientConfig
	if cfg == nil {
		cfg = new(tls.Config)
	}
	cfg = cfg.Clone()
	cfg.NextProtos = nil // HTTP/1.1; the transport has added h2
	if cfg.ServerName = repl.ReplaceAll(cfg.ServerName, ""); cfg.ServerName == "" {
		cfg.ServerName = e.hostname
	}
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(connecting); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS: %w", err), ignoreClosed(conn.Close()))
	}
	return secured, nil
}

// connect opens the connection. The transport hides what kind of error it met, so
// the clock tells whether the time was over.
func (d *dialer) connect(ctx context.Context, e *endpoint) (net.Conn, error) {
	conn, err := d.transport.Transport.DialContext(ctx, e.network, e.address)
	if err != nil && isOver(ctx) {
		err = timeoutError{err}
	}
	if tcp, ok := conn.(*net.TCPConn); ok && !d.probes {
		const unchanged = -1
		// A connection that it fails for has just been reset, which is noticed
		// soon enough.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: unchanged,
		})
	}
	return conn, err
}

// mayBeTheClients reports whether a client may have had a part in a failure to
// connect to an address that does not depend on its request: with a server name
// that does, or because the PROXY protocol has told the upstream who it is, when
// the connection was there already.
func (d *dialer) mayBeTheClients(err error) bool {
	// The transport hides what kind of error it met.
	return d.tellsRequest && !strings.HasPrefix(err.Error(), "dial ")
}

// timeoutError is an error that does not tell itself that it is a timeout.
type timeoutError struct{ error }

func (timeoutError) Timeout() bool   { return true }
func (e timeoutError) Unwrap() error { return e.error }

// isOver reports whether the deadline of ctx has passed. The deadlines of
// connections have timers of their own, which may be ahead of that of ctx.
func isOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

func (d *dialer) useTLS(e *endpoint) bool {
	return d.transport.TLS != nil && !slices.Contains(d.transport.TLS.ExceptPorts, e.port)
}

// ignoreClosed drops the error of closing what was closed already.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

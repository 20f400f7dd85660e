package websocketproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// activeCheck is what a handler wants its upstreams to pass.
type activeCheck struct {
	*health.Check

	settings  ActiveHealthChecks // with defaults
	uri       *url.URL
	body      *regexp.Regexp // nil: any
	transport *transport
	logger    *zap.Logger
}

// provisionHealth makes the check. Nothing is probed before the configuration is
// in force.
func (h *Handler) provisionHealth(caddy.Context) error {
	if h.HealthChecks == nil || h.HealthChecks.Active == nil {
		return nil
	}
	c, err := newActiveCheck(h.HealthChecks.Active, h.transport)
	if err != nil {
		return fmt.Errorf("health_checks.active: %w", err)
	}
	c.logger = h.logger
	h.check = c
	if c.settings.OnUnhealthy == evictUnhealthy {
		h.evictPolicy.MustPass = c.Key
	}
	return nil
}

// healthProblem returns the first setting of the check that is wrong, also for
// these upstreams, and what is wrong with it, if anything.
func (h *Handler) healthProblem() (field, text string) {
	a := h.HealthChecks.Active
	if field, text := a.problem(); text != "" {
		return field, text
	}
	for _, up := range h.Upstreams {
		if up == nil || strings.Contains(up.Dial, "{") {
			continue
		}
		of, err := parseAddress(up.Dial)
		if err != nil {
			continue // which is said elsewhere
		}
		if _, err := a.target(of); err != nil {
			return "port", "has no effect: " + err.Error()
		}
	}
	return "", ""
}

// newActiveCheck makes a check of settings that have no problem.
func newActiveCheck(a *ActiveHealthChecks, t *transport) (*activeCheck, error) {
	c := &activeCheck{settings: a.withDefaults(), transport: t}
	var err error
	if c.uri, err = url.Parse(a.URI); err != nil {
		return nil, err
	}
	if a.ExpectBody != "" {
		if c.body, err = regexp.Compile(a.ExpectBody); err != nil {
			return nil, err
		}
	}
	probe := c.settings
	probe.OnUnhealthy = "" // is about tunnels, not about probes
	key, err := json.Marshal([]any{probe, t.config})
	c.Check = health.NewCheck(health.Config{
		Key:      string(key),
		Interval: time.Duration(c.settings.Interval),
		Passes:   c.settings.Passes,
		Fails:    c.settings.Fails,
		Probe:    c.probe,
		Table:    hosts,
		Checkers: checkers,
		Observer: c,
	})
	return c, err
}

// Failed, like what follows, implements the check's observer.
func (c *activeCheck) Failed(address string, err error) {
	if l := c.logger.Check(zapcore.DebugLevel, "probe failed"); l != nil {
		l.Write(zap.String("address", address), failure(err))
	}
}

// Down writes a line.
func (c *activeCheck) Down(address string, err error) {
	c.logger.Warn("upstream is unhealthy", zap.String("address", address), failure(err))
}

// Up writes a line.
func (c *activeCheck) Up(address string) {
	c.logger.Info("upstream is healthy again", zap.String("address", address))
}

// OutOf writes a line now and then.
func (c *activeCheck) OutOf(lack string, err error) {
	tellShortage(c.logger, lack, err)
}

// DownOtherwise ends the tunnels that are to end because of that.
func (c *activeCheck) DownOtherwise(address string) {
	evictions.Unhealthy(address)
}

// probe returns what probes an endpoint.
func (c *activeCheck) probe(e *upstream.Endpoint) func(ctx context.Context) error {
	target, err := c.settings.target(e.Address)
	if err != nil {
		return func(context.Context) error { return err }
	}
	return func(ctx context.Context) error {
		// There is no client that the PROXY protocol could name.
		ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{
			proxyProtocolVar: reverseproxy.ProxyProtocolInfo{AddrPort: netip.MustParseAddrPort("127.0.0.1:0")},
		})
		repl := caddy.NewReplacer()
		setUpstream(repl, target, 0, e.Server.MaxTunnels, 0)
		repl.Set("http.reverse_proxy.active.target_upstream", e.Key())
		one := health.Probe{
			Kind:    c.settings.Kind,
			Timeout: time.Duration(c.settings.Timeout),
			Connect: func(ctx context.Context) (net.Conn, error) {
				return c.transport.dial(ctx, targetOf(target), repl)
			},
			Dialer:          &c.transport.Dialer,
			Request:         func(ctx context.Context) (*http.Request, error) { return c.request(ctx, target, repl) },
			FollowRedirects: c.settings.FollowRedirects,
			Expected:        func(status int) bool { return caddyhttp.StatusCodeMatches(status, c.settings.ExpectStatus) },
			Body:            c.body,
			MaxSize:         c.settings.MaxSize,
		}
		return one.Run(ctx)
	}
}

// request makes the request of a probe, as reverse_proxy makes it.
func (c *activeCheck) request(ctx context.Context, target upstream.Address, repl *caddy.Replacer) (*http.Request, error) {
	settings := &c.settings
	u := *c.uri
	u.Scheme, u.Host, u.Fragment = "http", target.HostPort, ""
	if c.transport.useTLS(targetOf(target)) {
		u.Scheme = "https"
	}
	if target.Network == "unix" {
		u.Host = "localhost" // a path is no host
	}
	var body io.Reader
	if settings.Body != "" {
		body = strings.NewReader(repl.ReplaceKnown(settings.Body, ""))
	}
	r, err := http.NewRequestWithContext(ctx, settings.Method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	for name, values := range settings.Headers {
		name = repl.ReplaceAll(name, "")
		if name == "Host" {
			r.Host = repl.ReplaceAll(values[0], "")
			continue
		}
		for _, value := range values {
			r.Header.Add(name, repl.ReplaceKnown(value, ""))
		}
	}
	return r, nil
}

// target returns what is dialed to check the upstream at an address.
func (a *ActiveHealthChecks) target(of upstream.Address) (upstream.Address, error) {
	switch {
	case a.Upstream != "":
		return parseAddress(a.Upstream)
	case a.Port == 0:
		return of, nil
	case of.Network == "unix":
		return of, fmt.Errorf("%s is a unix socket and has no port", of.Key())
	}
	of.Port = strconv.Itoa(a.Port)
	of.HostPort = net.JoinHostPort(of.Hostname, of.Port)
	return of, nil
}

// startChecks tells that the handler's configuration is in force, so that its
// upstreams may be probed.
func (h *Handler) startChecks() {
	if h.check != nil {
		h.check.Start()
	}
}

package websocketproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/told"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// activeCheck is what a handler wants its upstreams to pass.
type activeCheck struct {
	*health.Check

	settings  ActiveHealthChecks // with defaults
	body      *regexp.Regexp     // nil: any
	transport *transport
	logger    *zap.Logger
	handler   *Handler
}

// provisionHealth makes the check. Nothing is probed before the configuration is
// in force.
func (h *Handler) provisionHealth(caddy.Context) error {
	if h.HealthChecks == nil || h.HealthChecks.Active == nil {
		return nil
	}
	c, err := newActiveCheck(h.HealthChecks.Active, h.transport, h.balancing().LoadReport)
	if err != nil {
		return fmt.Errorf("health_checks.active: %w", err)
	}
	c.logger, c.handler = h.logger, h
	h.check = c
	if c.settings.OnUnhealthy == settings.EvictUnhealthy {
		h.evictPolicy.MustPass = c.Key
	}
	return nil
}

// provisionTold has a pool go by what its upstreams tell of themselves.
func (h *Handler) provisionTold(p *upstream.Pool, lb *LoadBalancing) (err error) {
	if h.reports, err = lb.LoadReport.Attach(p, process.table, h.logger); err != nil {
		return fmt.Errorf("load_balancing.load_report: %w", err)
	}
	if h.HealthChecks == nil || h.HealthChecks.Agent == nil {
		return nil
	}
	h.agents, err = h.HealthChecks.Agent.Attach(p, told.Means{
		Dial:      h.transport.dialPlainly,
		Transport: h.transport.config,
		Table:     process.table,
		Checkers:  process.checkers,
		Events:    &process.events,
		Logger:    h.logger,
		Asked:     func(address string, answered bool) { process.metrics.Checked(address, metrics.Agent, answered) },
		OutOf:     func(lack string, err error) { tellShortage(h.logger, lack, err) },
	})
	return err
}

// newActiveCheck makes a check of settings that have no problem.
func newActiveCheck(a *ActiveHealthChecks, t *transport, reports *told.LoadReport) (*activeCheck, error) {
	c := &activeCheck{settings: a.WithDefaults(), transport: t}
	if a.ExpectBody != "" {
		var err error
		if c.body, err = regexp.Compile(a.ExpectBody); err != nil {
			return nil, err
		}
	}
	probe := c.settings
	probe.OnUnhealthy = "" // is about tunnels, not about probes
	key, err := json.Marshal([]any{probe, t.config, reports})
	c.Check = health.NewCheck(health.Config{
		Key:      string(key),
		Interval: time.Duration(c.settings.Interval),
		Passes:   c.settings.Passes,
		Fails:    c.settings.Fails,
		Probe:    c.probe,
		Proves:   c.settings.Kind == "websocket",
		Table:    process.table,
		Checkers: process.checkers,
		Observer: c,
	})
	return c, err
}

// Probed, like what follows, implements the check's observer.
func (c *activeCheck) Probed(address string, took time.Duration, err error) {
	process.metrics.Checked(address, c.settings.Kind, err == nil)
	process.board.AddCheck(address, took, err)
}

// Failed writes a line.
func (c *activeCheck) Failed(address string, err error) {
	if l := c.logger.Check(zapcore.DebugLevel, "probe failed"); l != nil {
		l.Write(zap.String("address", address), failure(err))
	}
}

// Down writes a line.
func (c *activeCheck) Down(address string, err error) {
	c.logger.Warn("upstream is unhealthy", zap.String("address", address), failure(err))
	process.events.Emit(events.UpstreamDown, events.Data{
		"address": printable.Text(address), "check": c.String(), "error": printable.Text(err.Error()),
	})
}

// Up writes a line.
func (c *activeCheck) Up(address string) {
	c.logger.Info("upstream is healthy again", zap.String("address", address))
	process.events.Emit(events.UpstreamUp, events.Data{"address": printable.Text(address), "check": c.String()})
}

// String is what is checked, such as "http /health".
func (c *activeCheck) String() string {
	return strings.TrimSpace(c.settings.Kind + " " + c.settings.URI)
}

// OutOf writes a line now and then.
func (c *activeCheck) OutOf(lack string, err error) {
	tellShortage(c.logger, lack, err)
}

// DownOtherwise ends the tunnels that are to end because of that.
func (c *activeCheck) DownOtherwise(address string) {
	process.evictor.Unhealthy(address)
}

// Said implements the observer of an agent's check, which this is not.
func (c *activeCheck) Said(string, upstream.Word, upstream.Word, string) {}

// probe returns what probes an endpoint.
func (c *activeCheck) probe(e *upstream.Endpoint) func(ctx context.Context) error {
	target, err := c.settings.Target(e.Address)
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
		set, to := &c.settings, targetOf(target)
		one := health.Probe{
			Kind:            set.Kind,
			Timeout:         time.Duration(set.Timeout),
			Connect:         func(ctx context.Context) (net.Conn, error) { return c.transport.dial(ctx, to, repl) },
			Dialer:          &c.transport.Dialer,
			Target:          target,
			Secure:          c.transport.useTLS(to),
			Request:         health.Request{Method: set.Method, URI: set.URI, Header: set.Headers, Body: set.Body},
			Replacer:        repl,
			FollowRedirects: set.FollowRedirects,
			Expected:        func(status int) bool { return caddyhttp.StatusCodeMatches(status, set.ExpectStatus) },
			Body:            c.body,
			MaxSize:         set.MaxSize,
			Answered:        func(header http.Header) { c.handler.reports.Heard(e, header) },
		}
		return one.Run(ctx)
	}
}

// startChecks tells that the handler's configuration is in force, so that its
// upstreams may be probed.
func (h *Handler) startChecks() {
	if h.check != nil {
		h.check.Start()
	}
	if h.agents != nil {
		h.agents.Start()
	}
}

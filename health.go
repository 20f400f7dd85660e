package websocketproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// activeCheck is what a handler wants its upstreams to pass.
type activeCheck struct {
	settings ActiveHealthChecks // with defaults
	uri      *url.URL
	body     *regexp.Regexp // nil: any
	// key is the same for all that want the same.
	key       string
	transport *transport
	logger    *zap.Logger

	mu      sync.Mutex // guards what follows
	runs    bool       // the configuration is in force
	probers map[*upstream.Endpoint]*prober
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
		h.leasePolicy.mustPass = c.key
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
	c := &activeCheck{settings: a.withDefaults(), transport: t, probers: make(map[*upstream.Endpoint]*prober)}
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
	c.key = string(key)
	return c, err
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

// join gives e a checker, and has it probed if the configuration is in force.
func (c *activeCheck) join(e *upstream.Endpoint) {
	p := &prober{check: c, upstream: e.Key(), checker: checkers.join(hosts.Judge(e, c.key))}
	p.target, p.problem = c.settings.target(e.Address)
	p.most = e.Server.MaxTunnels
	p.ctx, p.cancel = context.WithCancel(context.Background())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probers[e] = p
	if c.runs {
		p.checker.attach(p)
	}
}

// leave ends what join began. When it returns, nothing of the configuration is
// in use for e any more.
func (c *activeCheck) leave(e *upstream.Endpoint) {
	c.mu.Lock()
	p, joined := c.probers[e]
	delete(c.probers, e)
	c.mu.Unlock()
	if joined {
		p.checker.detach(p)
		checkers.leave(p.checker)
		// In a reload, the new check has been at work already, but tunnels went by
		// this one as long as it was there.
		if hosts.Unjudge(e) {
			evictions.unhealthy(e.Host.Address)
		}
	}
}

// start begins to probe all that have joined.
func (c *activeCheck) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = true
	for _, p := range c.probers {
		p.checker.attach(p)
	}
}

// startChecks tells that the handler's configuration is in force, so that its
// upstreams may be probed.
func (h *Handler) startChecks() {
	if h.check != nil {
		h.check.start()
	}
}

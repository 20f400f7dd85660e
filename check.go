package websocketproxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// checkConfig returns the first mistake that shows without loading modules, and without
// looking at files or the environment. It begins with the path in JSON, from which
// the Caddyfile's parser finds the option and its line: so there is one set of rules
// for both, and `caddy adapt` applies it.
func (h *Handler) checkConfig() error {
	for _, check := range []func() error{
		h.checkUpstreams,
		h.checkSources,
		h.checkBalancing,
		h.checkHealth,
		h.Timeouts.check,
		h.Keepalive.check,
		h.Limits.check,
		h.Drain.check,
		h.checkAccess,
		h.checkHeaders,
		h.checkTrustedProxies,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) checkUpstreams() error {
	if len(h.Upstreams) == 0 && len(h.DynamicUpstreamsRaw) == 0 {
		return errors.New("upstreams: none given; at least one is needed, or dynamic_upstreams")
	}
	for i, up := range h.Upstreams {
		if err := up.check(); err != nil {
			return fmt.Errorf("upstreams[%d]: %w", i, err)
		}
	}
	return nil
}

func (up *Upstream) check() error {
	switch {
	case up == nil || up.Dial == "":
		return errors.New("dial: is empty; give an address such as localhost:9000")
	case strings.Contains(up.Dial, "://"):
		return fmt.Errorf("dial: %s is a URL; write host:port, and enable TLS in the transport", up.Dial)
	case up.Weight < 0 || up.Weight > maxWeight:
		return fmt.Errorf("weight: %d is not between 1 and %d", up.Weight, maxWeight)
	case strings.Contains(up.Dial, "{"):
		return nil // it is known in a handshake only
	}
	if _, err := parseAddress(up.Dial); err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	return nil
}

func (h *Handler) checkSources() error {
	if len(h.DynamicUpstreamsRaw) == 0 {
		return nil
	}
	_, err := splitSources("dynamic_upstreams", h.DynamicUpstreamsRaw)
	return err
}

// balancing returns the configuration of load balancing, with or without one.
func (h *Handler) balancing() *LoadBalancing {
	if h.LoadBalancing == nil {
		return new(LoadBalancing)
	}
	return h.LoadBalancing
}

func (h *Handler) checkBalancing() error {
	lb := h.balancing()
	if _, err := newRetry(lb); err != nil {
		return err
	}
	if _, err := newQueueLimits(lb.Queue); err != nil {
		return err
	}
	switch {
	case lb.SlowStart > 0 && lb.SlowStart < caddy.Duration(time.Second):
		return errors.New("load_balancing.slow_start: is shorter than a second")
	case lb.SlowStart > caddy.Duration(longestSlowStart):
		return fmt.Errorf("load_balancing.slow_start: is longer than %v", longestSlowStart)
	}
	if err := lb.Rebalance.check(); err != nil {
		return err
	}
	own, err := lb.ownPolicy()
	switch {
	case err != nil:
	case own == nil:
		return h.checkForeign(lb)
	case own.Weights != nil && len(h.DynamicUpstreamsRaw) > 0:
		err = errors.New("weights: are by position, which dynamic upstreams do not have; use least_conn or round_robin")
	default:
		err = own.check(h.Upstreams)
	}
	if err != nil {
		return fmt.Errorf("load_balancing.selection_policy: %w", err)
	}
	return own.checkWeights(h.Upstreams)
}

// checkForeign refuses what has no effect with a policy of another module.
func (h *Handler) checkForeign(lb *LoadBalancing) error {
	for i, up := range h.Upstreams {
		if up.Weight != 0 {
			return fmt.Errorf("upstreams[%d]: weight: has no effect with this selection policy; "+
				"use least_conn, round_robin or random_choose, or leave it out", i)
		}
	}
	switch {
	case lb.SlowStart > 0:
		return errors.New("load_balancing.slow_start: has no effect with this selection policy, " +
			"which would send clients somewhere else meanwhile; leave it out")
	case lb.Queue != nil && lb.Queue.Size >= 0:
		return errors.New("load_balancing.queue: has no effect with this selection policy, " +
			"which sends a client to the upstream that knows it; leave it out")
	case lb.Rebalance != nil && lb.Rebalance.Share > 0:
		return errors.New("load_balancing.rebalance: has no effect with this selection policy, which may send clients " +
			"straight back; use least_conn, round_robin, weighted_round_robin or random_choose, or leave it out")
	}
	return nil
}

// check reports what is wrong with the policy for these upstreams.
func (own *ownPolicy) check(upstreams []*Upstream) error {
	switch {
	case own.Choose != nil && own.Policy != "random_choose":
		return fmt.Errorf("%s has no option `choose`", own.Policy)
	case own.Choose != nil && *own.Choose < 2:
		return fmt.Errorf("choose: must be at least 2, not %d; `random` is a policy of its own", *own.Choose)
	case own.Policy == "weighted_round_robin":
	case own.Weights != nil:
		return fmt.Errorf("%s has no option `weights`; give each upstream its weight", own.Policy)
	default:
		return nil
	}
	if len(own.Weights) != len(upstreams) {
		return fmt.Errorf("weights: %d for %d upstreams; give one for each", len(own.Weights), len(upstreams))
	}
	for i, w := range own.Weights {
		if w < 1 || w > maxWeight {
			return fmt.Errorf("weights[%d]: %d is not between 1 and %d", i, w, maxWeight)
		}
	}
	return nil
}

// checkWeights refuses weights that upstreams have besides those of the policy.
func (own *ownPolicy) checkWeights(upstreams []*Upstream) error {
	for i, up := range upstreams {
		if up.Weight != 0 && own.Weights != nil {
			return fmt.Errorf("upstreams[%d]: weight: is given here and in weighted_round_robin; choose one", i)
		}
	}
	return nil
}

func (h *Handler) checkHealth() error {
	if h.HealthChecks == nil {
		return nil
	}
	if _, err := newFailureLimits(h.HealthChecks.Passive); err != nil {
		return err
	}
	if h.HealthChecks.Active == nil {
		return nil
	}
	if field, text := h.healthProblem(); text != "" {
		return fmt.Errorf("health_checks.active.%s: %s", field, text)
	}
	return nil
}

func (t *Timeouts) check() error {
	switch {
	case t == nil:
	case !(t.LifetimeJitter <= 1): // NaN too
		return fmt.Errorf("timeouts.lifetime_jitter: %v is more than 1", t.LifetimeJitter)
	case t.MaxLifetime <= 0 && t.LifetimeJitter != 0:
		return errors.New("timeouts.lifetime_jitter: has no effect without max_lifetime; set that too")
	}
	return nil
}

func (h *Handler) checkAccess() error {
	if h.Access == nil {
		return nil
	}
	_, err := newAccess(h.Access)
	return err
}

func (h *Handler) checkHeaders() error {
	if h.Headers == nil {
		return nil
	}
	if problem := headersProblem(h.Headers); problem != "" {
		return errors.New("headers: " + problem)
	}
	return nil
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

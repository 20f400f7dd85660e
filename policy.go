package websocketproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// retry says when a handshake that has failed is tried again.
type retry struct {
	limit    int // negative: no limit
	duration time.Duration
	interval time.Duration
	statuses []int // of answers after which another upstream is asked; below 10: a class
}

func newRetry(lb *LoadBalancing) (retry, error) {
	r := retry{limit: defaultRetries, interval: orDefault(lb.TryInterval, defaultTryInterval), statuses: lb.RetryStatus}
	for i, status := range lb.RetryStatus {
		if problem := retryStatusProblem(status); problem != "" {
			return r, fmt.Errorf("load_balancing.retry_status[%d]: %s", i, problem)
		}
	}
	if lb.TryInterval < 0 {
		return r, errors.New("load_balancing.try_interval: must not be negative")
	}
	if lb.TryDuration > 0 {
		r.limit, r.duration = -1, time.Duration(lb.TryDuration)
	}
	if lb.Retries != nil {
		r.limit = *lb.Retries
		if r.limit < 0 {
			return r, errors.New("load_balancing.retries: must not be negative; 0 means never")
		}
	}
	return r, nil
}

// retryStatusProblem returns what is wrong with a status after which another
// upstream is to be asked, if anything.
func retryStatusProblem(status int) string {
	if status == 4 || status == 5 || status >= 400 && status <= 599 {
		return ""
	}
	return fmt.Sprintf("%d is no status of an error; use 400 to 599, or a class of these, 4xx or 5xx (in JSON 4 or 5)", status)
}

// ownPolicy is the configuration of the policies that this module implements
// itself, in the form that reverse_proxy's policies of these names have.
type ownPolicy struct {
	Policy  string `json:"policy"`
	Choose  *int   `json:"choose"`
	Weights []int  `json:"weights"`
}

// provisionPool loads the policy and takes references to the upstreams' hosts.
func (h *Handler) provisionPool(ctx caddy.Context) error {
	lb := h.LoadBalancing
	if lb == nil {
		lb = new(LoadBalancing)
	}
	var err error
	if h.retry, err = newRetry(lb); err != nil {
		return err
	}
	if len(h.Upstreams) == 0 && len(h.DynamicUpstreamsRaw) == 0 {
		return errors.New("upstreams: none given; at least one is needed, or dynamic_upstreams")
	}
	p := &pool{transport: h.dialer.config, live: &liveTunnels, check: h.check}
	if err := h.provisionLimitsOf(p, lb); err != nil {
		return err
	}
	weights, err := h.loadPolicy(ctx, lb, p)
	if err != nil {
		return fmt.Errorf("load_balancing.selection_policy: %w", err)
	}
	if err := lb.checkSelector(p); err != nil {
		return err
	}
	// From here on Cleanup has something to give back, also if this fails.
	h.pool = p
	for i, up := range h.Upstreams {
		weight := 0
		if weights != nil {
			weight = weights[i]
		}
		if err := p.add(up, weight); err != nil {
			return fmt.Errorf("upstreams[%d]: %w", i, err)
		}
	}
	return h.provisionSources(ctx)
}

// provisionLimitsOf sets what the pool has besides a policy and upstreams.
func (h *Handler) provisionLimitsOf(p *pool, lb *LoadBalancing) (err error) {
	if lb.SlowStart > 0 && lb.SlowStart < caddy.Duration(time.Second) {
		return errors.New("load_balancing.slow_start: is shorter than a second")
	}
	if lb.SlowStart > caddy.Duration(longestSlowStart) {
		return fmt.Errorf("load_balancing.slow_start: is longer than %v", longestSlowStart)
	}
	p.slowStart, p.maxTunnels = orDefault(lb.SlowStart, 0), lb.MaxTunnels
	if p.queue, err = newQueueLimits(lb.Queue); err != nil {
		return err
	}
	var passive *PassiveHealthChecks
	if h.HealthChecks != nil {
		passive = h.HealthChecks.Passive
	}
	p.passive, err = newFailureLimits(passive)
	return err
}

// checkSelector refuses what has no effect with a policy of another module.
func (lb *LoadBalancing) checkSelector(p *pool) error {
	switch {
	case p.selector == nil:
	case lb.SlowStart > 0:
		return errors.New("load_balancing.slow_start: has no effect with this selection policy, " +
			"which would send clients somewhere else meanwhile; leave it out")
	case lb.Queue != nil && lb.Queue.Size >= 0:
		return errors.New("load_balancing.queue: has no effect with this selection policy, " +
			"which sends a client to the upstream that knows it; leave it out")
	}
	return nil
}

// loadPolicy sets the pool's policy or selector. It returns the weights that a
// policy brings itself.
func (h *Handler) loadPolicy(ctx caddy.Context, lb *LoadBalancing, p *pool) ([]int, error) {
	if len(lb.SelectionPolicyRaw) == 0 {
		p.policy = leastConn{}
		return nil, nil
	}
	var own ownPolicy
	// Options of other modules' policies may have the same names and other
	// types, so only the name counts until it is known to be ours.
	if err := json.Unmarshal(lb.SelectionPolicyRaw, &struct {
		Policy *string `json:"policy"`
	}{&own.Policy}); err != nil {
		return nil, err
	}
	switch own.Policy {
	case "least_conn", "round_robin", "random_choose", "weighted_round_robin":
		if err := caddy.StrictUnmarshalJSON(lb.SelectionPolicyRaw, &own); err != nil {
			return nil, err
		}
		if own.Weights != nil && len(h.DynamicUpstreamsRaw) > 0 {
			return nil, errors.New("weights: are by position, which dynamic upstreams do not have; use least_conn or round_robin")
		}
		return own.build(p, len(h.Upstreams))
	}
	mod, err := ctx.LoadModule(lb, "SelectionPolicyRaw")
	if err != nil {
		return nil, err
	}
	selector, ok := mod.(reverseproxy.Selector)
	if !ok {
		return nil, fmt.Errorf("%T does not select upstreams", mod)
	}
	p.selector = selector
	return nil, nil
}

// build sets the pool's policy and returns the weights it brings.
func (own *ownPolicy) build(p *pool, upstreams int) ([]int, error) {
	if own.Choose != nil && own.Policy != "random_choose" {
		return nil, fmt.Errorf("%s has no option `choose`", own.Policy)
	}
	if own.Weights != nil && own.Policy != "weighted_round_robin" {
		return nil, fmt.Errorf("%s has no option `weights`; give each upstream its weight", own.Policy)
	}
	switch own.Policy {
	case "least_conn":
		p.policy = leastConn{}
	case "round_robin":
		p.policy = roundRobin{}
	case "random_choose":
		choices := defaultChoices
		if own.Choose != nil {
			choices = *own.Choose
		}
		if choices < 2 {
			return nil, fmt.Errorf("choose: must be at least 2, not %d; `random` is a policy of its own", choices)
		}
		p.policy = &randomChoose{choices: choices}
	case "weighted_round_robin":
		p.policy = roundRobin{}
		if len(own.Weights) != upstreams {
			return nil, fmt.Errorf("weights: %d for %d upstreams; give one for each", len(own.Weights), upstreams)
		}
		for i, w := range own.Weights {
			if w < 1 || w > maxWeight {
				return nil, fmt.Errorf("weights[%d]: %d is not between 1 and %d", i, w, maxWeight)
			}
		}
	}
	return own.Weights, nil
}

// slot makes the upstream's place in a pool, in which upstreams may have so many
// tunnels if they do not say it themselves.
func (up *Upstream) slot(maxTunnels int) (*slot, error) {
	if up == nil || up.Dial == "" {
		return nil, errors.New("dial: is empty; give an address such as localhost:9000")
	}
	if strings.Contains(up.Dial, "://") {
		return nil, fmt.Errorf("dial: %s is a URL; write host:port, and enable TLS in the transport", up.Dial)
	}
	if up.Weight < 0 || up.Weight > maxWeight {
		return nil, fmt.Errorf("weight: %d is not between 1 and %d", up.Weight, maxWeight)
	}
	if up.MaxTunnels != 0 {
		maxTunnels = up.MaxTunnels
	}
	s := &slot{
		weight:     max(up.Weight, defaultWeight),
		maxTunnels: maxTunnels,
		backup:     up.Backup,
		foreign:    &reverseproxy.Upstream{Dial: up.Dial, Host: new(reverseproxy.Host)},
	}
	return s, nil
}

// add puts an upstream into the pool. The weight is what the policy says about
// it, or zero.
func (p *pool) add(up *Upstream, weight int) error {
	s, err := up.slot(p.maxTunnels)
	switch {
	case err != nil:
		return err
	case up.Weight != 0 && p.selector != nil:
		return errors.New("weight: has no effect with this selection policy; " +
			"use least_conn, round_robin or random_choose, or leave it out")
	case up.Weight != 0 && weight != 0:
		return errors.New("weight: is given here and in weighted_round_robin; choose one")
	case weight != 0:
		s.weight = weight
	}
	if strings.Contains(up.Dial, "{") {
		hosts.nameTemplate(up.Dial)
		p.templates = append(p.templates, template{slot: s, dial: up.Dial, from: &provenance{template: up.Dial}})
		return nil
	}
	e, err := newEndpoint(s, up.Dial)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	e.host = hosts.name(e.key())
	p.join(e)
	p.fixed = append(p.fixed, e)
	return nil
}

// release gives back the pool's references to hosts. Handshakes and tunnels
// have their own. It reports whether some upstream is not configured any more.
func (p *pool) release() (orphaned bool) {
	for _, e := range p.fixed {
		p.leave(e)
		orphaned = hosts.unname(e.host) || orphaned
	}
	for _, t := range p.templates {
		orphaned = hosts.unnameTemplate(t.dial) || orphaned
	}
	return p.releaseSources() || orphaned
}

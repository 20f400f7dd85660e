package websocketproxy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
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

// ownPolicy returns the policy if it is one of this module's own; nil if it is of
// another one.
func (lb *LoadBalancing) ownPolicy() (*ownPolicy, error) {
	own := &ownPolicy{Policy: "least_conn"}
	if len(lb.SelectionPolicyRaw) == 0 {
		return own, nil
	}
	// Options of other modules' policies may have the same names and other
	// types, so only the name counts until it is known to be ours.
	own.Policy = ""
	if err := json.Unmarshal(lb.SelectionPolicyRaw, &struct {
		Policy *string `json:"policy"`
	}{&own.Policy}); err != nil {
		return nil, err
	}
	switch own.Policy {
	case "least_conn", "round_robin", "random_choose", "weighted_round_robin":
		return own, caddy.StrictUnmarshalJSON(lb.SelectionPolicyRaw, own)
	}
	return nil, nil
}

// provisionPool loads the policy and takes references to the upstreams' hosts.
func (h *Handler) provisionPool(ctx caddy.Context) error {
	lb := h.balancing()
	var err error
	if h.retry, err = newRetry(lb); err != nil {
		return err
	}
	p := upstream.NewPool(process.table)
	p.Transport = h.transport.config
	if h.check != nil {
		p.Joins, p.Leaves = append(p.Joins, h.check.Join), append(p.Leaves, h.check.Leave)
	}
	if err := h.provisionLimitsOf(p, lb); err != nil {
		return err
	}
	if err := h.provisionTold(p, lb); err != nil {
		return err
	}
	weights, err := h.loadPolicy(ctx, lb, p)
	if err != nil {
		return fmt.Errorf("load_balancing.selection_policy: %w", err)
	}
	// From here on Cleanup has something to give back, also if this fails.
	h.pool = p
	for i, up := range h.Upstreams {
		weight := up.Weight
		if weights != nil {
			weight = weights[i]
		}
		if err := addTo(p, up, weight); err != nil {
			return fmt.Errorf("upstreams[%d]: %w", i, err)
		}
	}
	return h.provisionSources(ctx)
}

// provisionLimitsOf sets what the pool has besides a policy and upstreams.
func (h *Handler) provisionLimitsOf(p *upstream.Pool, lb *LoadBalancing) (err error) {
	p.SlowStart, p.MaxTunnels = orDefault(lb.SlowStart, 0), lb.MaxTunnels
	if p.Queue, err = newQueueLimits(lb.Queue); err != nil {
		return err
	}
	var passive *PassiveHealthChecks
	if h.HealthChecks != nil {
		passive = h.HealthChecks.Passive
	}
	p.Passive, err = newFailureLimits(passive)
	return err
}

// makeKnown makes the pool known as one that is being loaded.
func (h *Handler) makeKnown(ctx caddy.Context) error {
	c := evict.Config{
		Unloaded: ctx.Done(),
		Name:     h.Name,
		Pool:     h.pool,
		Policy:   h.evictPolicy,
		Shown:    make(map[string]string),
		Pending:  h.sources.ArePending,
		Handler:  h,
	}
	for _, e := range h.pool.Fixed {
		c.Shown[e.Host.Address] = e.Host.Address
	}
	for _, t := range h.pool.Templates {
		c.Shown[t.Dial] = t.Dial
	}
	for _, s := range h.sources {
		c.Shown[s.Key] = "dynamic " + s.Name // the rest may be secret
	}
	if r := h.balancing().Rebalance; r != nil {
		c.Rebalance = evict.Rebalance{
			Share:    max(0, r.Share),
			Interval: orDefault(r.Interval, defaultRebalanceInterval),
			Closing: func(tooMany, closing int) {
				h.logger.Info("rebalancing", zap.Int("too_many", tooMany), zap.Int("closing", closing))
				process.events.Emit(events.TunnelsMoved, events.Data{
					"reason": string(tunnel.Rebalanced), "handler": printable.Text(h.Name), "tunnels": closing,
				})
			},
		}
	}
	h.loaded = process.evictor.Add(c)
	return nil
}

// loadPolicy sets the pool's policy, or who chooses instead. It returns the weights that a
// policy brings itself.
func (h *Handler) loadPolicy(ctx caddy.Context, lb *LoadBalancing, p *upstream.Pool) (weights []int, err error) {
	own, err := lb.ownPolicy()
	if err != nil {
		return nil, err
	}
	if own != nil {
		p.Policy = own.build()
		return own.Weights, nil
	}
	h.guest, err = guest.LoadPolicy(ctx, lb, "SelectionPolicyRaw")
	return nil, err
}

// build makes the policy.
func (own *ownPolicy) build() upstream.Policy {
	switch own.Policy {
	case "round_robin", "weighted_round_robin":
		return upstream.RoundRobin{}
	case "random_choose":
		choices := defaultChoices
		if own.Choose != nil {
			choices = *own.Choose
		}
		return &upstream.RandomChoose{Choices: choices}
	}
	return upstream.LeastConn{}
}

// slot makes the upstream's place in a pool, in which upstreams have this weight,
// or none, and may have so many tunnels, if they do not say it themselves.
func (up *Upstream) slot(weight, maxTunnels int) *upstream.Server {
	if up.MaxTunnels != 0 {
		maxTunnels = up.MaxTunnels
	}
	return &upstream.Server{
		Weight:     max(weight, defaultWeight),
		MaxTunnels: maxTunnels,
		Backup:     up.Backup,
		Dial:       up.Dial,
		Known:      guest.NewUpstream(up.Dial),
	}
}

// addTo puts an upstream into a pool. Without a weight, that is the default.
func addTo(p *upstream.Pool, up *Upstream, weight int) error {
	s := up.slot(weight, p.MaxTunnels)
	if strings.Contains(up.Dial, "{") {
		p.AddTemplate(s, up.Dial)
		return nil
	}
	a, err := parseAddress(up.Dial)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	p.AddFixed(s, a)
	return nil
}

// newQueueLimits applies the defaults. Without a cap there is nothing to wait
// for.
func newQueueLimits(q *Queue) (upstream.QueueLimits, error) {
	limits := upstream.QueueLimits{Size: defaultQueueSize, Timeout: defaultQueueTimeout}
	if q == nil {
		return limits, nil
	}
	switch {
	case q.Timeout < 0:
		return limits, errors.New("load_balancing.queue.timeout: must not be negative; " +
			"a negative size means that nobody waits")
	case q.Size < 0 && q.Timeout != 0:
		return limits, errors.New("load_balancing.queue.timeout: has no effect without a size; set that too")
	case q.Size != 0:
		limits.Size = max(0, q.Size)
	}
	limits.Timeout = orDefault(q.Timeout, defaultQueueTimeout)
	return limits, nil
}

// mostMaxFails bounds what is remembered of one address.
const mostMaxFails = 1000

// newFailureLimits applies the defaults of passive checks.
func newFailureLimits(cfg *PassiveHealthChecks) (upstream.FailureLimits, error) {
	cfg = cmp.Or(cfg, new(PassiveHealthChecks))
	limits := upstream.FailureLimits{Duration: orDefault(cfg.FailDuration, defaultFailDuration), Max: cfg.MaxFails}
	switch {
	case limits.Duration == 0 && cfg.MaxFails != 0:
		return limits, errors.New("health_checks.passive.max_fails: has no effect as fail_duration is off; set that too")
	case limits.Duration == 0, limits.Max < 0:
		return upstream.FailureLimits{}, nil
	case limits.Max == 0:
		limits.Max = defaultMaxFails
	case limits.Max > mostMaxFails:
		return limits, fmt.Errorf("health_checks.passive.max_fails: %d is more than %d", limits.Max, mostMaxFails)
	}
	return limits, nil
}

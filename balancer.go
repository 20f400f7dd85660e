package websocketproxy

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// provisionPool loads the policy and takes references to the upstreams' hosts.
func (h *Handler) provisionPool(ctx caddy.Context) error {
	lb := h.balancing()
	var err error
	if h.retry, err = settings.NewRetry(lb); err != nil {
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
		if err := settings.AddTo(p, up, weight); err != nil {
			return fmt.Errorf("upstreams[%d]: %w", i, err)
		}
	}
	return h.provisionSources(ctx)
}

// provisionLimitsOf sets what the pool has besides a policy and upstreams.
func (h *Handler) provisionLimitsOf(p *upstream.Pool, lb *LoadBalancing) (err error) {
	p.SlowStart = settings.OrDefault(lb.SlowStart, 0)
	lb.SetLimits(p)
	if p.Queue, err = settings.NewQueueLimits(lb.Queue); err != nil {
		return err
	}
	var passive *PassiveHealthChecks
	if h.HealthChecks != nil {
		passive = h.HealthChecks.Passive
	}
	if p.Passive, err = settings.NewFailureLimits(passive); err != nil {
		return err
	}
	h.doubts, err = settings.NewDoubts(passive)
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
			Interval: settings.OrDefault(r.Interval, settings.DefaultRebalanceInterval),
			Closing:  h.rebalances,
		}
	}
	h.loaded = process.evictor.Add(c)
	return nil
}

// rebalances tells that tunnels are about to be closed so that their clients come to other
// upstreams, also if they have the cookie of theirs.
func (h *Handler) rebalances(clients upstream.ClientGroup, tooMany int, at map[string]int) {
	closing := 0
	for address, n := range at {
		closing += n
		h.sticky.Give(clients, address, n)
	}
	h.logger.Info("rebalancing", zap.Int("too_many", tooMany), zap.Int("closing", closing))
	process.events.Emit(events.TunnelsMoved, events.Data{
		"reason": string(tunnel.Rebalanced), "handler": printable.Text(h.Name), "tunnels": closing,
	})
}

// loadPolicy sets the pool's policy, or who chooses instead. It returns the weights that a
// policy brings itself.
func (h *Handler) loadPolicy(ctx caddy.Context, lb *LoadBalancing, p *upstream.Pool) (weights []int, err error) {
	own, err := lb.OwnPolicy()
	if err != nil {
		return nil, err
	}
	if own != nil {
		own.Apply(p, h.clientGroup)
		h.policy = own
		if own.Sticky != nil {
			h.sticky = sticky.New(own.Sticky, process.known, lb.StickySession, h.clientGroup)
			p.Joins, p.Leaves = append(p.Joins, h.sticky.Join), append(p.Leaves, h.sticky.Leave)
		}
		return own.Weights, nil
	}
	h.guest, err = guest.LoadPolicy(ctx, lb, "SelectionPolicyRaw")
	return nil, err
}

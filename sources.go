package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/discovery"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// provisionSources loads the sources of upstreams, without asking them.
func (h *Handler) provisionSources(ctx caddy.Context) error {
	if len(h.DynamicUpstreamsRaw) == 0 {
		return nil
	}
	modules, err := guest.LoadSources(ctx, "dynamic_upstreams", h.DynamicUpstreamsRaw, settings.ParseAddress)
	if err != nil {
		return err
	}
	configs := make([]discovery.Config, len(modules))
	for i, m := range modules {
		configs[i] = m.Config(&sourceLog{h.logger.With(zap.String("source", m.Name)), m.Name})
	}
	h.sourceModules, h.sources = modules, process.sources.Add(h.pool, h.dynamicSlot, configs)
	return nil
}

// dynamicSlot makes the place of an upstream that was found.
func (h *Handler) dynamicSlot(dial string) *upstream.Server {
	return (&Upstream{Dial: dial}).Slot(h.pool, settings.DefaultWeight)
}

// discover waits for upstreams that are still to be found, and asks the handler's
// sources for those that depend on the request. It returns why none was found, or that the
// client has gone meanwhile or that the time is over; nil if there are some, or no
// sources of them.
func (h *Handler) discover(ctx context.Context, c *upstream.Candidates, r *http.Request) *refusal {
	if len(h.sources) == 0 {
		return nil
	}
	problems := h.sources.Find(ctx, c, func(i int) discovery.Lookup { return h.sourceModules[i].LookupFor(r) })
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // the client has gone, or the process exits
		return refuseUpstream(ctx, ctx.Err(), "looking for upstreams", causeNoUpstream, causeNoUpstream)
	case c.Count() == 0:
		refused := refuseNoUpstream()
		refused.err = fmt.Errorf("%w: none was found: %s", refused.err, strings.Join(problems, "; "))
		return refused
	case ctx.Err() != nil:
		// No upstream is to blame for that.
		return refuseUpstream(ctx, ctx.Err(), "looking for upstreams", causeNoUpstream, causeNoUpstream)
	}
	return nil
}

// sourceLog writes what happens to a source.
type sourceLog struct {
	logger *zap.Logger
	name   string
}

// Failing implements discovery.Observer.
func (l *sourceLog) Failing(found int, err error) {
	l.logger.Warn("upstream source fails; what it has found last stays", zap.Int("found", found), failure(err))
}

// Recovered implements discovery.Observer.
func (l *sourceLog) Recovered() { l.logger.Info("upstream source works again") }

// Unusable implements discovery.Observer.
func (l *sourceLog) Unusable(addresses []string) {
	l.logger.Warn("upstream source has found what cannot be used", zap.Strings("upstreams", addresses))
}

// Found implements discovery.Observer.
func (l *sourceLog) Found(added, removed []string) {
	l.logger.Info("upstreams found", zap.Strings("added", added), zap.Strings("removed", removed))
	process.events.Emit(events.UpstreamsChanged, events.Data{
		"by": "source", "source": l.name, "added": shown(added), "removed": shown(removed),
	})
}

// poolUpstreams makes a source of upstreams for reverse_proxy.
func poolUpstreams(pool string) *guest.PoolUpstreams { return guest.NewPoolUpstreams(pool, usable) }

// named returns the handlers of a name, as soon as what operators have said is known.
func named(r *http.Request, pool string, config <-chan struct{}) (handlers []*Handler, err error) {
	for _, p := range process.evictor.Named(pool, config) {
		h, _ := p.Handler.(*Handler) // which all of them are
		handlers = append(handlers, h)
	}
	if len(handlers) == 0 {
		return nil, errNoneNamed(pool)
	}
	process.operators.Await(r.Context())
	return handlers, nil
}

func errNoneNamed(pool string) error {
	return fmt.Errorf("no websocket_proxy of this configuration has the name %q; write `name %s` into the one that is meant", pool, pool)
}

// usable returns the upstreams that the pools with a name would use for a request.
func usable(r *http.Request, pool string, config <-chan struct{}) ([]string, error) {
	pools, err := named(r, pool, config)
	if err != nil {
		return nil, err
	}
	var dials []string
	var problems []error
	for _, h := range pools {
		some, err := h.usable(r)
		problems = append(problems, err)
		for _, dial := range some {
			if !slices.Contains(dials, dial) {
				dials = append(dials, dial)
			}
		}
	}
	if len(dials) == 0 {
		// Without an error, reverse_proxy says by itself that there are none.
		return nil, errors.Join(problems...)
	}
	return dials, nil
}

// usable returns the upstreams that the pool would use for a request, spelled as
// selection policies see them: they hash that. Placeholders are left for
// reverse_proxy, which replaces them after its choice.
func (h *Handler) usable(r *http.Request) ([]string, error) {
	c, err := h.candidatesFor(r)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	dials := c.Usable()
	h.sticky.Know(r, c).Place(false)
	// Who belongs to an upstream that drains stays there. Others do not get to see it.
	if e := c.Home; e != nil && c.MayStay(e) && !slices.Contains(dials, e.Server.Dial) {
		dials = append(dials, e.Server.Dial)
	}
	return dials, nil
}

// foresee returns to which upstream the pools with a name would have a request's WebSocket
// come, of those that may be, and what the answer has to tell the client then.
func foresee(
	r *http.Request, pool string, config <-chan struct{}, may func(dial string) bool,
) (dial string, header http.Header, err error) {
	pools, err := named(r, pool, config)
	if err != nil {
		return "", nil, err
	}
	var problems []error
	for _, h := range pools {
		dial, header, err := h.foresee(r, may)
		if dial != "" {
			return dial, header, nil
		}
		problems = append(problems, err)
	}
	return "", nil, errors.Join(problems...)
}

func (h *Handler) foresee(r *http.Request, may func(dial string) bool) (dial string, header http.Header, err error) {
	c, err := h.candidatesFor(r)
	if err != nil {
		return "", nil, err
	}
	defer c.Close()
	c.Exclude(func(e *upstream.Endpoint) bool { return !may(e.Server.Dial) })
	if h.guest != nil {
		chosen, header := h.guest.Pick(c, r)
		if chosen == nil {
			return "", nil, nil
		}
		process.table.GiveBack(chosen)
		return chosen.Endpoint.Server.Dial, header, nil
	}
	client := h.sticky.Know(r, c)
	client.Place(true)
	e := c.Foresee()
	if e == nil {
		return "", nil, nil // reverse_proxy says by itself that there is none
	}
	header, visit := client.Came(e)
	visit.Leave()
	return e.Server.Dial, header, nil
}

// candidatesFor are those for a request to reverse_proxy. They have to be closed.
func (h *Handler) candidatesFor(r *http.Request) (*upstream.Candidates, error) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return nil, errors.New("the request has no placeholders")
	}
	c, err := h.pool.Candidates(expander(repl))
	if err != nil {
		return nil, err
	}
	h.byKey(c, repl)
	c.Client, _ = upstream.ClientOf(clientIP(r))
	if refused := h.discover(r.Context(), c, r); refused != nil && c.Count() == 0 {
		c.Close()
		return nil, refused
	}
	return c, nil
}

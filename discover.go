package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// firstAnswerTimeout is how long a handshake waits for upstreams to be found.
const firstAnswerTimeout = 2 * time.Second

// discover waits for upstreams that are still to be found, and asks the sources
// for those that depend on the request. It returns why none was found, or that the
// client has gone meanwhile or that the time is over; nil if there are some, or no
// sources of them.
func (c *candidates) discover(ctx context.Context, r *http.Request) *refusal {
	if len(c.pool.sources) == 0 {
		return nil
	}
	lookups := make([]*lookup, len(c.pool.sources))
	for i, s := range c.pool.sources {
		if s.discovery == nil {
			lookups[i] = s.lookUp(r) // all at once, so that a slow one does not take the time of others
		}
	}
	c.pool.awaitFound(ctx)
	var problems []string
	for i, s := range c.pool.sources {
		var err error
		if s.discovery != nil {
			err = s.discovery.problem()
		} else {
			err = c.takeOver(ctx, s, lookups[i])
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("source %s: %v", s.name, err))
		}
	}
	c.renew()
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // the client has gone, or the process exits
		return refuseUpstream(ctx, ctx.Err(), "looking for upstreams", causeNoUpstream, causeNoUpstream)
	case len(c.endpoints) == 0:
		refused := refuseNoUpstream()
		refused.err = fmt.Errorf("%w: none was found: %s", refused.err, strings.Join(problems, "; "))
		return refused
	case ctx.Err() != nil:
		// No upstream is to blame for that.
		return refuseUpstream(ctx, ctx.Err(), "looking for upstreams", causeNoUpstream, causeNoUpstream)
	}
	return nil
}

// takeOver adds what a source finds for the request, but for what the pool has by
// itself: that has settings, and may be checked.
func (c *candidates) takeOver(ctx context.Context, s *finder, l *lookup) error {
	found, o, err := l.wait(ctx)
	if err != nil {
		return err
	}
	for _, f := range found {
		if c.has(f.key()) {
			continue
		}
		e := *f
		e.slot, e.from = s.slotFor(o, f), o
		e.host = hosts.acquireFound(e.key(), s.name)
		c.expanded = append(c.expanded, &e)
	}
	return nil
}

// has reports whether there is an endpoint with an address already.
func (c *candidates) has(address string) bool {
	isIt := func(e *endpoint) bool { return e.host.address == address }
	return slices.ContainsFunc(c.pool.standing(), isIt) || slices.ContainsFunc(c.expanded, isIt)
}

// awaitFound waits until all sources have been asked once, and there is an
// upstream, unless the request may bring one.
func (p *pool) awaitFound(ctx context.Context) {
	var pending []<-chan struct{}
	needsRequest := len(p.templates) > 0
	for _, s := range p.sources {
		if s.discovery == nil {
			needsRequest = true
		} else if !isClosed(s.discovery.tried) {
			pending = append(pending, s.discovery.tried)
		}
	}
	if !needsRequest && !isClosed(p.found.some) {
		pending = append(pending, p.found.some)
	}
	if len(pending) == 0 {
		return
	}
	timer := time.NewTimer(firstAnswerTimeout)
	defer timer.Stop()
	for _, c := range pending {
		select {
		case <-c:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// problem returns why nothing has been found yet.
func (d *discovery) problem() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.found != nil:
		return nil
	case d.trouble != nil:
		return d.trouble
	}
	return errors.New("no answer yet")
}

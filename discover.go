package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const (
	// firstAnswerTimeout is how long a handshake waits for upstreams to be found, and
	// askTimeout how long a source may take that is asked in it.
	firstAnswerTimeout = 2 * time.Second
	askTimeout         = 2 * time.Second
)

// discover waits for upstreams that are still to be found, and asks the handler's
// sources for those that depend on the request. It returns why none was found, or that the
// client has gone meanwhile or that the time is over; nil if there are some, or no
// sources of them.
func (h *Handler) discover(ctx context.Context, c *upstream.Candidates, r *http.Request) *refusal {
	if len(h.sources) == 0 {
		return nil
	}
	calls := make([]*outside.Call[findings], len(h.sources))
	for i, s := range h.sources {
		if s.discovery == nil {
			calls[i] = s.ask(s.requestLike(ctx, r), askTimeout) // all at once, so that a slow one does not take the time of others
		}
	}
	h.awaitFound(ctx)
	var problems []string
	for i, s := range h.sources {
		var err error
		if s.discovery != nil {
			err = s.discovery.problem()
		} else {
			err = s.give(ctx, calls[i], c)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("source %s: %v", s.name, err))
		}
	}
	c.Renew()
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // the client has gone, or the process exits
		return refuseUpstream(ctx, ctx.Err(), "looking for upstreams", causeNoUpstream, causeNoUpstream)
	case len(c.Endpoints) == 0:
		refused := refuseNoUpstream()
		refused.err = fmt.Errorf("%w: none was found: %s", refused.err, strings.Join(problems, "; "))
		return refused
	case ctx.Err() != nil:
		// No upstream is to blame for that.
		return refuseUpstream(ctx, ctx.Err(), "looking for upstreams", causeNoUpstream, causeNoUpstream)
	}
	return nil
}

// give adds what a call of the source finds for the request, but for what the pool has by
// itself: that has settings, and may be checked.
func (s *finder) give(ctx context.Context, call *outside.Call[findings], c *upstream.Candidates) error {
	select {
	case <-call.Done():
	case <-call.Late():
	}
	switch {
	case call.IsDone():
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return fmt.Errorf("no answer within %v", askTimeout)
	}
	a, _, err := call.Result()
	if err != nil {
		return err
	}
	if len(a.invalid) > 0 {
		s.warnOfUnusable(a.invalid)
	}
	for _, e := range a.found {
		if c.Has(e.Key()) {
			continue
		}
		e.Server = s.slotFor(e.Dial)
		c.Add(e, new(upstream.Provenance), s.name)
	}
	return nil
}

// requestLike returns a request for the source that is not the client's, as the source
// may hold it longer than that lives. It ends with the handshake.
func (s *finder) requestLike(ctx context.Context, r *http.Request) *http.Request {
	repl := caddy.NewReplacer()
	if known, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		for _, name := range s.placeholders {
			value, _ := known.GetString(name)
			repl.Set(name, value)
		}
	}
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, maps.Clone(vars))
	like := r.Clone(context.WithValue(ctx, caddy.ReplacerCtxKey, repl))
	like.Body = http.NoBody
	return like
}

// awaitFound waits until all sources have been asked once, and there is an
// upstream, unless the request may bring one.
func (h *Handler) awaitFound(ctx context.Context) {
	var pending []<-chan struct{}
	for _, s := range h.sources {
		if s.discovery != nil && !isClosed(s.discovery.tried) {
			pending = append(pending, s.discovery.tried)
		}
	}
	if some := h.pool.Found.Some; !h.pool.Expands() && !isClosed(some) {
		pending = append(pending, some)
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

// maxSlots bounds the places that a source has in its pool for what it finds in
// handshakes, as clients decide how much that is.
const maxSlots = 10_000

// slots are the places in the pool of what a source finds in handshakes, so that
// policies know them again.
type slots struct {
	mu sync.Mutex // guards what follows
	m  map[string]*upstream.Server
	// warned is when a line has told that addresses are unusable.
	warned time.Time
}

// slotFor returns the place of an address, as the source spells it.
func (s *finder) slotFor(dial string) *upstream.Server {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	if known, ok := s.slots.m[dial]; ok {
		return known
	}
	if s.slots.m == nil || len(s.slots.m) >= maxSlots {
		s.slots.m = make(map[string]*upstream.Server)
	}
	made := s.newSlot(dial)
	s.slots.m[dial] = made
	return made
}

// warnInterval is how often a line tells of what was left out of an answer, at most.
const warnInterval = time.Minute

func (s *finder) warnOfUnusable(invalid []string) {
	s.slots.mu.Lock()
	due := time.Since(s.slots.warned) >= warnInterval
	if due {
		s.slots.warned = time.Now()
	}
	s.slots.mu.Unlock()
	if due {
		s.log.Warn(foundUnusable, zap.Strings("upstreams", invalid))
	}
}

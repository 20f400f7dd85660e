package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/discovery"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// discoveries are the sources of the process.
var discoveries = discovery.NewSet(hosts, follow)

// follow does what follows from what sources have found.
func follow(o discovery.Outcome) {
	if o.Orphans {
		evictions.Orphans()
	}
	evictions.Discovered(o.Joined, o.Had)
}

// discover waits for upstreams that are still to be found, and asks the handler's
// sources for those that depend on the request. It returns why none was found, or that the
// client has gone meanwhile or that the time is over; nil if there are some, or no
// sources of them.
func (h *Handler) discover(ctx context.Context, c *upstream.Candidates, r *http.Request) *refusal {
	if len(h.sources) == 0 {
		return nil
	}
	problems := h.sources.Find(ctx, c, func(i int) discovery.Lookup { return h.finders[i].lookupFor(r) })
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

// lookUp asks the source.
func (f *finder) lookUp(r *http.Request) (found []*upstream.Endpoint, unusable []string, err error) {
	upstreams, err := f.module.GetUpstreams(r)
	if err != nil {
		return nil, nil, err
	}
	for _, up := range upstreams {
		if e, err := newFound(up); err != nil {
			unusable = append(unusable, err.Error())
		} else {
			found = append(found, e)
		}
	}
	return found, unusable, nil
}

// newFound makes an endpoint without a place of what a source has given.
func newFound(up *reverseproxy.Upstream) (*upstream.Endpoint, error) {
	switch {
	case up == nil:
		return nil, errors.New("an upstream is null")
	case strings.Contains(up.Dial, "{"):
		return nil, fmt.Errorf("%q has a placeholder", up.Dial)
	}
	a, err := parseAddress(up.Dial)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", up.Dial, err)
	}
	e := upstream.NewEndpoint(nil, a)
	e.Dial = up.Dial
	return e, nil
}

// lookUpForNobody asks the source in the background.
func (f *finder) lookUpForNobody(ctx context.Context) ([]*upstream.Endpoint, []string, error) {
	return f.lookUp(requestForNobody(ctx))
}

// requestForNobody is what sources are asked with in the background.
func requestForNobody(ctx context.Context) *http.Request {
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/", http.NoBody)
	if err != nil {
		panic(err) // all of it is constant
	}
	return r
}

// lookupFor has the source asked with a request that is not the client's, as the source
// may hold it longer than that lives.
func (f *finder) lookupFor(r *http.Request) discovery.Lookup {
	repl := caddy.NewReplacer()
	if known, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		for _, name := range f.placeholders {
			value, _ := known.GetString(name)
			repl.Set(name, value)
		}
	}
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	vars = maps.Clone(vars)
	like := r.Clone(r.Context())
	like.Body = http.NoBody
	return func(ctx context.Context) ([]*upstream.Endpoint, []string, error) {
		ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, vars)
		ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, repl)
		return f.lookUp(like.WithContext(ctx))
	}
}

// Failing implements discovery.Observer.
func (f *finder) Failing(found int, err error) {
	f.log.Warn("upstream source fails; what it has found last stays", zap.Int("found", found), failure(err))
}

// Recovered implements discovery.Observer.
func (f *finder) Recovered() { f.log.Info("upstream source works again") }

// Unusable implements discovery.Observer.
func (f *finder) Unusable(addresses []string) {
	f.log.Warn("upstream source has found what cannot be used", zap.Strings("upstreams", addresses))
}

// Found implements discovery.Observer.
func (f *finder) Found(added, removed []string) {
	f.log.Info("upstreams found", zap.Strings("added", added), zap.Strings("removed", removed))
}

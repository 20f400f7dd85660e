package guest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/discovery"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// lookUp asks the source.
func (s *Source) lookUp(r *http.Request) (found []*upstream.Endpoint, unusable []string, err error) {
	upstreams, err := s.module.GetUpstreams(r)
	if err != nil {
		return nil, nil, err
	}
	for _, up := range upstreams {
		if e, err := s.newFound(up); err != nil {
			unusable = append(unusable, err.Error())
		} else {
			found = append(found, e)
		}
	}
	return found, unusable, nil
}

// newFound makes an endpoint without a place of what a source has given.
func (s *Source) newFound(up *reverseproxy.Upstream) (*upstream.Endpoint, error) {
	switch {
	case up == nil:
		return nil, errors.New("an upstream is null")
	case strings.Contains(up.Dial, "{"):
		return nil, fmt.Errorf("%q has a placeholder", up.Dial)
	}
	a, err := s.parse(up.Dial)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", up.Dial, err)
	}
	e := upstream.NewEndpoint(nil, a)
	e.Dial = up.Dial
	return e, nil
}

// lookUpForNobody asks the source in the background.
func (s *Source) lookUpForNobody(ctx context.Context) ([]*upstream.Endpoint, []string, error) {
	return s.lookUp(requestForNobody(ctx))
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

// LookupFor has the source asked with a request that is not the client's, as the source
// may hold it longer than that lives.
func (s *Source) LookupFor(r *http.Request) discovery.Lookup {
	repl := caddy.NewReplacer()
	if known, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		for _, name := range s.placeholders {
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
		return s.lookUp(like.WithContext(ctx))
	}
}

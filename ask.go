package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// maxLost bounds the calls that sources have not answered in time and, as there
// is no way to end or to join a goroutine that other code holds, may never do: those
// of all that are asked in the background, and of each that is asked in handshakes, as
// clients decide about these.
const maxLost = 100

// backgroundCalls are those in the background.
var backgroundCalls = newCallee()

func newCallee() *outside.Callee {
	return &outside.Callee{
		Name:    "the source",
		MaxLost: maxLost,
		TooMany: fmt.Errorf("%d calls of upstream sources have never been answered; restart Caddy when these work again", maxLost),
	}
}

// foundUnusable is the line about upstreams that are left out of an answer.
const foundUnusable = "upstream source has found what cannot be used"

// findings is what a source has found.
type findings struct {
	found []*upstream.Endpoint
	// invalid are the addresses that were left out, and why.
	invalid []string
}

// ask begins a call.
func (s *finder) ask(r *http.Request, timeout time.Duration) *outside.Call[findings] {
	callee := s.callee
	if s.discovery != nil {
		callee = backgroundCalls
	}
	return outside.Start(r.Context(), timeout, callee, func(ctx context.Context) (findings, error) {
		upstreams, err := s.module.GetUpstreams(r.WithContext(ctx))
		if err != nil {
			return findings{}, err
		}
		return read(upstreams)
	})
}

// read takes over the addresses of an answer, each once. One without any is as
// good as none: `multi` gives that if all of its sources fail, and others if
// what they ask has just started.
func read(upstreams []*reverseproxy.Upstream) (a findings, err error) {
	seen := make(map[string]bool, len(upstreams))
	for _, up := range upstreams {
		e, err := newFound(up)
		if err != nil {
			a.invalid = append(a.invalid, err.Error())
			continue
		}
		if key := e.Key(); !seen[key] {
			seen[key] = true
			a.found = append(a.found, e)
		}
	}
	switch {
	case len(a.found) > 0:
		return a, nil
	case len(a.invalid) > 0:
		return findings{}, fmt.Errorf("none of the addresses can be used: %s", strings.Join(a.invalid, "; "))
	default:
		return findings{}, errors.New("there are no addresses")
	}
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

// requestForNobody is what sources are asked with in the background.
func requestForNobody() *http.Request {
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/", http.NoBody)
	if err != nil {
		panic(err) // all of it is constant
	}
	return r
}

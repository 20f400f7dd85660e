package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// maxLost bounds the calls that sources have not answered in time and, as there
// is no way to end or to join a goroutine that other code holds, may never do: those
// of all that are asked in the background, and of each that is asked in handshakes, as
// clients decide about these.
const maxLost = 100

// lostCalls counts those in the background.
var lostCalls atomic.Int32

// foundUnusable is the line about upstreams that are left out of an answer.
const foundUnusable = "upstream source has found what cannot be used"

// asking is one call of a source, in a goroutine of its own: a source may be a
// server elsewhere, may ignore the context, and may wait for locks that the
// lookups of others hold.
type asking struct {
	source *finder
	began  time.Time
	ctx    context.Context // is over when the answer is late
	cancel context.CancelFunc
	done   chan struct{} // closed when the source has answered

	// Both are set then; found is empty if err is not nil.
	found []*upstream.Endpoint
	err   error
	// invalid are the addresses that were left out, and why.
	invalid []string
}

// ask begins a call.
func (s *finder) ask(r *http.Request, timeout time.Duration) *asking {
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	a := &asking{source: s, began: time.Now(), ctx: ctx, cancel: cancel, done: make(chan struct{})}
	lost := &lostCalls
	if s.discovery == nil {
		lost = &s.lost
	}
	go a.run(r.WithContext(ctx), lost)
	return a
}

func (a *asking) run(r *http.Request, lost *atomic.Int32) {
	defer a.cancel()
	defer close(a.done)
	if lost.Load() >= maxLost {
		a.err = fmt.Errorf("%d calls of upstream sources have never been answered; restart Caddy when these work again", maxLost)
		return
	}
	inTime := context.AfterFunc(a.ctx, func() { lost.Add(1) })
	defer func() {
		if !inTime() {
			lost.Add(-1)
		}
	}()
	defer func() {
		// The process holds tunnels that have nothing to do with it.
		if p := recover(); p != nil {
			a.found, a.err = nil, fmt.Errorf("the source has panicked: %v", p)
		}
	}()
	a.err = errors.New("the source has ended the goroutine") // unless it returns
	upstreams, err := a.source.module.GetUpstreams(r)
	if a.err = err; err == nil {
		a.read(upstreams)
	}
}

// hasAnswer reports whether the source has answered.
func (a *asking) hasAnswer() bool { return isClosed(a.done) }

// read takes over the addresses of an answer, each once. One without any is as
// good as none: `multi` gives that if all of its sources fail, and others if
// what they ask has just started.
func (a *asking) read(upstreams []*reverseproxy.Upstream) {
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
	case len(a.invalid) > 0:
		a.err = fmt.Errorf("none of the addresses can be used: %s", strings.Join(a.invalid, "; "))
	default:
		a.err = errors.New("there are no addresses")
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

package websocketproxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func init() {
	caddy.RegisterModule(new(scriptedSource))
}

// scriptedSource is a source of upstreams that gives what a script says.
type scriptedSource struct {
	Script string `json:"script"`
	// Variant makes another configuration of the same script.
	Variant string `json:"variant,omitempty"`
	// Refresh is how often it wants to be asked.
	Refresh caddy.Duration `json:"refresh,omitempty"`

	script  *script
	cleaned atomic.Bool
}

func (*scriptedSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams.scripted",
		New: func() caddy.Module { return new(scriptedSource) },
	}
}

func (s *scriptedSource) Provision(caddy.Context) error {
	found, ok := scripts.Load(s.Script)
	if !ok {
		return fmt.Errorf("there is no script %s", s.Script)
	}
	s.script, _ = found.(*script)
	return nil
}

func (s *scriptedSource) Cleanup() error {
	s.cleaned.Store(true)
	return nil
}

func (s *scriptedSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	p := s.script
	p.mu.Lock()
	p.calls++
	p.asked = s
	act := p.act
	p.mu.Unlock()
	// A handshake that comes late has no other one to ask.
	if s.cleaned.Load() && s.Variant != byRoom {
		p.tb.Error("a source of an unloaded configuration was asked")
	}
	return act(s, r)
}

// action is what a script does when it is asked.
type action func(s *scriptedSource, r *http.Request) ([]*reverseproxy.Upstream, error)

// gives is the action to give these addresses.
func gives(dials ...string) action {
	return func(*scriptedSource, *http.Request) ([]*reverseproxy.Upstream, error) {
		var all []*reverseproxy.Upstream
		for _, dial := range dials {
			all = append(all, &reverseproxy.Upstream{Dial: dial})
		}
		return all, nil
	}
}

// fails is the action to fail.
func fails(err error) action {
	return func(*scriptedSource, *http.Request) ([]*reverseproxy.Upstream, error) { return nil, err }
}

var (
	scripts     sync.Map
	scriptCount atomic.Int64
)

// script is what the sources that name it do.
type script struct {
	name string
	tb   testing.TB

	mu    sync.Mutex // guards what follows
	act   action
	calls int
	asked *scriptedSource // last
}

func newScript(tb testing.TB, act action) *script {
	tb.Helper()
	p := &script{name: fmt.Sprint("script ", scriptCount.Add(1)), tb: tb, act: act}
	scripts.Store(p.name, p)
	tb.Cleanup(func() { scripts.Delete(p.name) })
	return p
}

// do has the script act in another way from now on.
func (p *script) do(act action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.act = act
}

func (p *script) called() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

func (p *script) lastAsked() *scriptedSource {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// awaitCalls waits until the script has been asked n times more.
func (p *script) awaitCalls(n int) {
	p.tb.Helper()
	before := p.called()
	eventually(p.tb, "the source is asked", func() bool { return p.called() >= before+n })
}

// raw is the configuration of a source with this script.
func (p *script) raw(variant string) json.RawMessage {
	raw, err := json.Marshal(map[string]any{
		"source": "scripted", "script": p.name, "variant": variant, "refresh": "100ms",
	})
	if err != nil {
		p.tb.Fatal(err)
	}
	return raw
}

// dynamic is a handler that finds its upstreams so.
func dynamic(raw json.RawMessage, dials ...string) *Handler {
	h := tellsUpstream(nil, dials...)
	h.DynamicUpstreamsRaw = raw
	return h
}

// putInForce loads a handler as Caddy would that runs it. Whoever loads more than
// one checks with expectNothingHeld in a Cleanup of its own.
func putInForce(tb testing.TB, h *Handler) (p *testProxy, unload func()) {
	tb.Helper()
	unload = load(tb, h)
	p = serve(tb, h)
	for _, s := range h.sources {
		s.Observer = &sourceLog{h.logger, s.Name}
	}
	h.sources.Start()
	return p, unload
}

// expectStanding waits until these are the upstreams that a pool has for every
// request.
func expectStanding(tb testing.TB, h *Handler, want ...string) {
	tb.Helper()
	eventually(tb, fmt.Sprint("the upstreams are ", want), func() bool { return slices.Equal(addressesOf(h), want) })
}

// expectLines fails the test unless a proxy's log has so many lines with this
// message.
func (p *testProxy) expectLines(message string, want int) {
	p.tb.Helper()
	if got := p.logs.FilterMessage(message).Len(); got != want {
		p.tb.Errorf("the log has %d times %q, want %d: %v", got, message, want, p.logs.FilterMessage(message).All())
	}
}

// upstreamOf opens a tunnel, and returns its client and its upstream.
func upstreamOf(tb testing.TB, p *testProxy, extra ...string) (*testbed.Client, string) {
	tb.Helper()
	c := testbed.Dial(tb, p.Addr)
	return c, c.Handshake("/", extra...).Header.Get("X-Upstream")
}

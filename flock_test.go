package websocketproxy

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// flock are the clients of a site in a bubble of its own time. When a tunnel is
// closed, its client opens another one at once. No bytes flow.
type flock struct {
	t    *testing.T
	live *tunnel.Registry

	mu   sync.Mutex // guards what follows
	site *Handler   // that clients come to
	stay bool       // away
	// closed are the ends for rebalancing: how long after the test began.
	closed []time.Duration
	began  time.Time
}

// inFlock runs a test. When it returns, all tunnels end.
func inFlock(t *testing.T, test func(f *flock)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &flock{t: t, live: tunnel.NewRegistry(nil), began: time.Now()}
		t.Cleanup(func() { expectNothingHeld(t) })
		defer f.leave()
		test(f)
	})
}

// load loads a handler, which is not in force before an older one is unloaded.
func (f *flock) load(h *Handler) (unload func()) {
	f.t.Helper()
	unload = load(f.t, h)
	if r := h.loaded.rebalance; r != nil {
		r.live = f.live
	}
	h.leasePolicy.report, h.tunnelPolicy.Idle = f.ended, 0
	return unload
}

// reload puts another handler in force.
func (f *flock) reload(h *Handler, unloadOld func()) (unload func()) {
	f.t.Helper()
	unload = f.load(h)
	f.visit(h)
	unloadOld()
	return unload
}

// visit has clients come to another handler from now on.
func (f *flock) visit(h *Handler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.site = h
}

// open opens n tunnels.
func (f *flock) open(n int) (opened []*tunnel.Tunnel) {
	f.t.Helper()
	for range n {
		f.mu.Lock()
		site := f.site
		f.mu.Unlock()
		opened = append(opened, f.openAt(site))
	}
	return opened
}

func (f *flock) openAt(site *Handler) *tunnel.Tunnel {
	f.t.Helper()
	return f.openOver(site, func(hooks relay.Hooks) relay.Relay { return &sheep{hooks: hooks} })
}

func (f *flock) openOver(site *Handler, begin func(relay.Hooks) relay.Relay) *tunnel.Tunnel {
	f.t.Helper()
	repl := caddy.NewReplacer()
	repl.Set("backend", "b.test:80")
	candidates, err := site.pool.Candidates(expander(repl))
	if err != nil {
		f.t.Fatal(err)
	}
	defer candidates.Close()
	chosen := site.choose(candidates, new(http.Request))
	if chosen.Choice == nil {
		f.t.Fatal("no upstream is available")
	}
	held := &lease{host: chosen.Host, from: chosen.Endpoint.From, policy: site.leasePolicy}
	opened := tunnel.New(tunnel.About{ID: "id", ClientIP: "192.0.2.1", Upstream: chosen.Host.Address}, site.tunnelPolicy, f.live, held)
	opened.Start(begin, func() float64 { return 0 })
	return opened
}

// stayAway has clients whose tunnels end not come back.
func (f *flock) stayAway() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stay = true
}

// leave ends all tunnels.
func (f *flock) leave() {
	f.stayAway()
	for _, open := range f.live.Collect(nil) {
		open.End(tunnel.Ending{Reason: tunnel.Killed})
	}
	synctest.Wait()
}

// sheep is the relay of a tunnel whose peers answer each Close at once.
type sheep struct {
	hooks relay.Hooks
	once  sync.Once
}

func (*sheep) Counts(relay.Direction) (read, taken uint64) { return 0, 0 }
func (*sheep) Backlog(relay.Direction) int                 { return 0 }
func (s *sheep) Wake(relay.Direction)                      { s.once.Do(func() { go s.hooks.Done() }) }
func (s *sheep) Reset(relay.Direction)                     { s.Abort() }
func (s *sheep) Abort()                                    { s.once.Do(func() { go s.hooks.Done() }) }

// stubborn is a sheep that answers no Close.
type stubborn struct{ sheep }

func (*stubborn) Wake(relay.Direction) {}

// hasEnded reports whether a tunnel is not there any more.
func (f *flock) hasEnded(opened *tunnel.Tunnel) bool {
	return !slices.Contains(f.live.Collect(nil), opened)
}

// ended has the client of a tunnel that was closed for rebalancing come back.
func (f *flock) ended(o tunnel.Outcome) {
	if o.Reason != tunnel.Rebalanced {
		return
	}
	f.mu.Lock()
	f.closed = append(f.closed, time.Since(f.began))
	stay := f.stay
	f.mu.Unlock()
	if !stay {
		go f.open(1)
	}
}

// closings returns how many tunnels were closed for rebalancing until now.
func (f *flock) closings() int {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.closed)
}

// expectPace checks that in no interval more than n tunnels were closed, all of
// them in its first half.
func (f *flock) expectPace(interval time.Duration, n int) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	perStep := make(map[time.Duration]int)
	for _, at := range f.closed {
		if at%interval > interval/2 {
			f.t.Errorf("a tunnel was closed after %v, which is in the second half of an interval", at)
		}
		perStep[at/interval]++
	}
	for step, got := range perStep {
		if got > n {
			f.t.Errorf("%d tunnels were closed in interval %d, want at most %d: %v", got, step, n, perStep)
		}
	}
}

// expect compares the tunnels at upstreams, which may be off by a few.
func (f *flock) expect(off int, want map[string]int) {
	f.t.Helper()
	synctest.Wait()
	for address, n := range want {
		if got := tunnelsOf(address); got < n-off || got > n+off {
			f.t.Errorf("%s has %d tunnels, want %d or up to %d more or less", address, got, n, off)
		}
	}
}

// reserve counts a tunnel at an upstream that no configuration names.
func reserve(dial string) *upstream.Host {
	p := upstream.NewPool(hosts)
	p.AddFixed(&upstream.Server{Weight: 1}, upstream.Address{HostPort: dial})
	defer p.Release()
	c, _ := p.Candidates(nil) // has no templates
	defer c.Close()
	return c.Reserve(p.Fixed[0]).Host
}

package evict

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// site is what matters here of a handler.
type site struct {
	name      string
	dials     []string // with braces: templates
	max       []int    // tunnels that each upstream may have; none means no limit
	rebalance Rebalance
	slowStart time.Duration
	keys      *upstream.Keys
	passive   upstream.FailureLimits
	unloaded  chan struct{} // of its configuration; nil: it has one of its own

	pool   *upstream.Pool
	policy *Policy
	loaded *Pool
}

// plain is a site with upstreams that is not rebalanced.
func plain(dials ...string) *site { return &site{dials: dials} }

// rebalancing is one that is.
func rebalancing(share float64, dials ...string) *site {
	return &site{dials: dials, rebalance: Rebalance{Share: share, Interval: pause}}
}

// flock are the clients of a site in a bubble of its own time. When a tunnel is
// closed, its client opens another one at once. No bytes flow.
type flock struct {
	t       *testing.T
	live    *tunnel.Registry
	table   *upstream.Table
	evictor *Evictor
	states  map[string]upstream.State // that operators have given
	words   uint64                    // how often they have

	mu   sync.Mutex // guards what follows
	site *site      // that clients come to
	stay bool       // away
	// closed are the ends for rebalancing: how long after the test began.
	closed []time.Duration
	began  time.Time
}

// inFlock runs a test. When it returns, all tunnels end.
func inFlock(t *testing.T, test func(f *flock)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &flock{t: t, live: tunnel.NewRegistry(nil), table: upstream.NewTable(nil), states: make(map[string]upstream.State), began: time.Now()}
		f.evictor = New(f.table, f.live)
		f.table.Changed = func(c upstream.Change) {
			if c.Kind == upstream.AddressTried || c.Kind == upstream.AddressUp {
				f.evictor.Recovered(c.Endpoints)
			}
		}
		t.Cleanup(f.expectNothingHeld)
		defer f.leave()
		test(f)
	})
}

// load loads a site, which is not in force before an older one is unloaded.
func (f *flock) load(s *site) (unload func()) {
	f.t.Helper()
	if s.unloaded == nil {
		s.unloaded = make(chan struct{})
	}
	s.pool = upstream.NewPool(f.table)
	s.pool.Policy, s.pool.SlowStart, s.pool.Passive = upstream.LeastConn{}, s.slowStart, s.passive
	s.pool.Keys = s.keys
	shown := make(map[string]string)
	for i, dial := range s.dials {
		server := &upstream.Server{Weight: 1, Dial: dial}
		if s.max != nil {
			server.MaxTunnels = s.max[i]
		}
		if shown[dial] = dial; strings.Contains(dial, "{") {
			s.pool.AddTemplate(server, dial)
			continue
		}
		s.pool.AddFixed(server, upstream.Address{Network: "tcp", HostPort: dial})
	}
	s.rebalance.Closing = func(upstream.ClientGroup, int, map[string]int) {}
	s.policy = &Policy{Period: DefaultPeriod, CloseCode: frame.StatusServiceRestart, Report: f.ended}
	s.loaded = f.evictor.Add(Config{
		Unloaded: s.unloaded, Name: s.name, Pool: s.pool, Policy: s.policy, Shown: shown,
		Pending: func() bool { return false }, Rebalance: s.rebalance,
	})
	unload = sync.OnceFunc(func() {
		f.evictor.Remove(s.loaded)
		if s.pool.Release() {
			f.evictor.Orphans()
		}
	})
	f.t.Cleanup(unload)
	return unload
}

// reload puts another site in force.
func (f *flock) reload(s *site, unloadOld func()) (unload func()) {
	f.t.Helper()
	unload = f.enter(s)
	unloadOld()
	return unload
}

// enter loads a site, to which clients come from now on.
func (f *flock) enter(s *site) (unload func()) {
	f.t.Helper()
	unload = f.load(s)
	f.visit(s)
	return unload
}

// operate gives upstreams a state.
func (f *flock) operate(state string, addresses ...string) {
	for _, address := range addresses {
		f.states[address] = upstream.State{State: state, At: time.Now()}
		f.words++
		if _, ready := f.table.SetStates(f.words, maps.Clone(f.states)); len(ready) > 0 {
			f.evictor.BecameReady(ready)
		}
	}
}

// fail has passive checks see failures of the i-th upstream.
func (f *flock) fail(s *site, i, times int) {
	for range times {
		f.table.Failed(s.pool.Fixed[i].Failures)
	}
}

func (f *flock) expectNothingHeld() {
	f.t.Helper()
	time.Sleep(time.Minute) // for those whose peers do not answer
	synctest.Wait()
	if n := f.live.Count(); n > 0 {
		f.t.Errorf("%d tunnels are live", n)
	}
	if held := f.table.Held(); held != (upstream.Held{}) {
		f.t.Errorf("upstreams are held: %+v", held)
	}
	if n := len(f.evictor.loaded); n > 0 {
		f.t.Errorf("%d configurations are loaded", n)
	}
}

// visit has clients come to another handler from now on.
func (f *flock) visit(s *site) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.site = s
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

// openWithout opens n tunnels while an upstream is drained, which is ready again then.
func (f *flock) openWithout(address string, n int) {
	f.t.Helper()
	f.operate(upstream.Drain, address)
	f.open(n)
	f.operate(upstream.Ready, address)
}

func (f *flock) openAt(site *site) *tunnel.Tunnel {
	f.t.Helper()
	return f.openOver(site, func(hooks relay.Hooks) relay.Relay { return &sheep{hooks: hooks} })
}

func (f *flock) openOver(site *site, begin func(relay.Hooks) relay.Relay) *tunnel.Tunnel {
	f.t.Helper()
	return f.openRoom(site, "", begin)
}

// openIn is openAt for a member of a room.
func (f *flock) openIn(site *site, room string) {
	f.t.Helper()
	f.openRoom(site, room, func(hooks relay.Hooks) relay.Relay { return &sheep{hooks: hooks} })
}

// openRoom is openOver for a member of a room.
func (f *flock) openRoom(site *site, room string, begin func(relay.Hooks) relay.Relay) *tunnel.Tunnel {
	f.t.Helper()
	candidates, err := site.pool.Candidates(func(string) (upstream.Address, error) {
		return upstream.Address{Network: "tcp", HostPort: hostB}, nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	defer candidates.Close()
	candidates.ByKey(room)
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits
	chosen, err := candidates.Next(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	f.table.HandshakeEnded(chosen, limit.Answered)
	held := &Lease{Host: chosen.Host, Room: chosen.Room, From: chosen.Endpoint.From, Policy: site.policy}
	opened := tunnel.New(tunnel.About{ID: room, ClientIP: "192.0.2.1", Upstream: chosen.Host.Address}, new(tunnel.Options), f.live, held)
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
func (*sheep) GiveUpAfter(time.Duration)                   {}
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
	stay, site := f.stay, f.site
	f.mu.Unlock()
	if !stay {
		go f.openIn(site, o.ID)
	}
}

// closings returns how many tunnels were closed for rebalancing until now.
func (f *flock) closings() int {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.closed)
}

// expectClosings compares how many tunnels were closed for rebalancing until now.
func (f *flock) expectClosings(want int, when string) {
	f.t.Helper()
	if got := f.closings(); got != want {
		f.t.Errorf("%d tunnels were closed %s, want %d", got, when, want)
	}
}

// expectStopped checks that tunnels were closed for rebalancing until now, and that none
// are from now on, as that would be in vain.
func (f *flock) expectStopped(vain string) {
	f.t.Helper()
	before := f.closings()
	if before == 0 {
		f.t.Error("nothing was closed before that")
	}
	time.Sleep(forLong)
	if got := f.closings(); got != before {
		f.t.Errorf("%d tunnels were closed %s", got-before, vain)
	}
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
		if got := f.tunnelsOf(address); got < n-off || got > n+off {
			f.t.Errorf("%s has %d tunnels, want %d or up to %d more or less", address, got, n, off)
		}
	}
}

// tunnelsOf returns how many tunnels are counted at an upstream.
func (f *flock) tunnelsOf(address string) int {
	i, _ := f.table.Info(address)
	return i.Tunnels
}

// lease counts a tunnel at an upstream that no configuration names.
func (f *flock) lease(address string) *Lease {
	p := upstream.NewPool(f.table)
	p.AddFixed(&upstream.Server{Weight: 1}, upstream.Address{HostPort: address})
	defer p.Release()
	c, _ := p.Candidates(nil) // has no templates
	defer c.Close()
	chosen := c.Reserve(p.Fixed[0])
	f.table.HandshakeEnded(chosen, limit.Answered)
	return &Lease{Host: chosen.Host, Policy: &Policy{Period: time.Second, evictor: f.evictor}}
}

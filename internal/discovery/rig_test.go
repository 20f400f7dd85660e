package discovery

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const hostA, hostB, hostC = "a.test:80", "b.test:80", "c.test:80"

// rig is a set with a pool of its own table.
type rig struct {
	table *upstream.Table
	set   *Set
	// releases give back what pools and sources hold.
	releases []func()

	mu       sync.Mutex // guards what follows
	outcomes []Outcome
	next     Lookup
	asked    int
	told     []string
}

func newRig() *rig {
	r := &rig{table: upstream.NewTable(func(upstream.Change) {})}
	r.set = NewSet(r.table, func(o Outcome) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.outcomes = append(r.outcomes, o)
	})
	return r
}

// inRig runs a test, at the end of which everything has to be given back.
func inRig(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		test(t, r)
		for _, release := range slices.Backward(r.releases) {
			release()
		}
		synctest.Wait()
		if held := r.table.Held(); held != (upstream.Held{}) {
			t.Errorf("still held are %+v", held)
		}
		if sources, lost := r.set.Held(); sources != 0 || lost != 0 {
			t.Errorf("there are still %d sources and %d calls", sources, lost)
		}
	})
}

// pool makes a pool that has upstreams by itself.
func (r *rig) pool(addresses ...string) *upstream.Pool {
	p := upstream.NewPool(r.table)
	for _, a := range addresses {
		p.AddFixed(&upstream.Server{Weight: 1}, upstream.Address{HostPort: a})
	}
	r.releases = append(r.releases, func() { p.Release() })
	return p
}

// add adds a source to a pool of its own; without a lookup it depends on the request.
func (r *rig) add(l Lookup) (Sources, *upstream.Pool) {
	p := upstream.NewPool(r.table)
	return r.sources(p, l), p
}

// addTo adds sources to a pool, which are there until they are unloaded.
func (r *rig) addTo(p *upstream.Pool, lookups ...Lookup) (all Sources, unload func()) {
	all = r.sources(p, lookups...)
	unload = sync.OnceFunc(func() { all.Release() })
	r.releases = append(r.releases, unload)
	return all, unload
}

func (r *rig) sources(p *upstream.Pool, lookups ...Lookup) Sources {
	newServer := func(dial string) *upstream.Server { return &upstream.Server{Dial: dial} }
	configs := make([]Config, len(lookups))
	for i, l := range lookups {
		configs[i] = Config{Name: "scripted", Key: fmt.Sprint("script ", i), Lookup: l, Interval: time.Second, Observer: r}
	}
	return r.set.Add(p, newServer, configs)
}

// does has the next lookups do this.
func (r *rig) does(l Lookup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = l
}

// lookUp does what it has been told.
func (r *rig) lookUp(ctx context.Context) ([]*upstream.Endpoint, []string, error) {
	r.mu.Lock()
	r.asked++
	l := r.next
	r.mu.Unlock()
	return l(ctx)
}

// wasAsked is how often that was.
func (r *rig) wasAsked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func (r *rig) tell(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, fmt.Sprintf(format, args...))
}

func (r *rig) Failing(found int, err error)  { r.tell("failing with %d: %v", found, err) }
func (r *rig) Recovered()                    { r.tell("recovered") }
func (r *rig) Unusable(addresses []string)   { r.tell("unusable: %v", addresses) }
func (r *rig) Found(added, removed []string) { r.tell("found: %v, not any more: %v", added, removed) }

// expectTold fails the test unless exactly this was told since.
func (r *rig) expectTold(t *testing.T, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.told, want) {
		t.Errorf("was told %q, want %q", r.told, want)
	}
	r.told = nil
}

func (r *rig) hasOutcomes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.outcomes)
}

func endpoints(addresses ...string) []*upstream.Endpoint {
	var all []*upstream.Endpoint
	for _, a := range addresses {
		e := upstream.NewEndpoint(nil, upstream.Address{Network: "tcp", HostPort: a})
		e.Dial = a
		all = append(all, e)
	}
	return all
}

func gives(addresses ...string) Lookup {
	return func(context.Context) ([]*upstream.Endpoint, []string, error) {
		return endpoints(addresses...), nil, nil
	}
}

// hangs does not come back before released is closed.
func hangs(released <-chan struct{}, then Lookup) Lookup {
	return func(ctx context.Context) ([]*upstream.Endpoint, []string, error) {
		<-released
		return then(ctx)
	}
}

// takes comes back after a while, or when it has to.
func takes(d time.Duration, then Lookup) Lookup {
	return func(ctx context.Context) ([]*upstream.Endpoint, []string, error) {
		select {
		case <-time.After(d):
			return then(ctx)
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

func fails(err error) Lookup {
	return func(context.Context) ([]*upstream.Endpoint, []string, error) { return nil, nil, err }
}

func addressesOf(p *upstream.Pool) (all []string) {
	for _, e := range p.Standing() {
		all = append(all, e.Host.Address)
	}
	return all
}

func expectAddresses(t *testing.T, p *upstream.Pool, want ...string) {
	t.Helper()
	if got := addressesOf(p); !slices.Equal(got, want) {
		t.Errorf("the upstreams are %v, want %v", got, want)
	}
}

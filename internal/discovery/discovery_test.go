package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

	mu       sync.Mutex // guards what follows
	outcomes []Outcome
	next     Lookup
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

// add adds a source to a pool of its own; without a lookup it depends on the request.
func (r *rig) add(l Lookup) (Sources, *upstream.Pool) {
	p := upstream.NewPool(r.table)
	newServer := func(dial string) *upstream.Server { return &upstream.Server{Dial: dial} }
	return r.set.Add(p, newServer, []Config{{
		Name: "scripted", Key: "script", Lookup: l, Interval: time.Second, Observer: r,
	}}), p
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
	l := r.next
	r.mu.Unlock()
	return l(ctx)
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

func addressesOf(p *upstream.Pool) (all []string) {
	for _, e := range p.Standing() {
		all = append(all, e.Host.Address)
	}
	return all
}

// find does what a handshake does.
func find(t *testing.T, all Sources, p *upstream.Pool, l Lookup) (problems string) {
	t.Helper()
	c, err := p.Candidates(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return strings.Join(all.Find(t.Context(), c, func(int) Lookup { return l }), "; ")
}

func TestWhatIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		all, p := r.add(r.lookUp)
		defer all.Release()
		half := func(context.Context) ([]*upstream.Endpoint, []string, error) {
			return endpoints(hostB, hostB), []string{"nonsense"}, nil
		}
		none := func(context.Context) ([]*upstream.Endpoint, []string, error) { return nil, []string{"x", "y"}, nil }

		r.does(gives(hostA))
		all.Start()
		synctest.Wait()
		r.expectTold(t, "found: [a.test:80], not any more: []")
		for _, step := range []struct {
			does Lookup
			want []string
			is   string
		}{
			{gives(hostA), nil, hostA},
			{none, []string{"failing with 1: none of the addresses can be used: x; y"}, hostA},
			{gives(), nil, hostA}, // it fails still
			{half, []string{"recovered", "unusable: [nonsense]", "found: [b.test:80], not any more: [a.test:80]"}, hostB},
			{half, nil, hostB},
			{gives(hostB), nil, hostB},
			{half, []string{"unusable: [nonsense]"}, hostB},
		} {
			r.does(step.does)
			time.Sleep(time.Second)
			synctest.Wait()
			r.expectTold(t, step.want...)
			if got := addressesOf(p); !slices.Equal(got, []string{step.is}) {
				t.Errorf("the upstreams are %v, want %s", got, step.is)
			}
		}
	})
}

func TestOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		r.does(gives(hostA))
		all, _ := r.add(r.lookUp)
		if all.ArePending() {
			t.Error("it is waited for before it is in force")
		}
		all.Start()
		if !all.ArePending() {
			t.Error("its first answer is not waited for")
		}
		synctest.Wait()
		r.does(gives(hostB))
		time.Sleep(time.Second)
		synctest.Wait()
		if all.ArePending() {
			t.Error("its first answer is still waited for")
		}
		if n := r.hasOutcomes(); n != 2 {
			t.Fatalf("there are %d outcomes, want 2", n)
		}
		first, second := r.outcomes[0], r.outcomes[1]
		if !first.Orphans || len(first.Joined) > 0 {
			t.Errorf("from the first answer follows %+v", first)
		}
		if !second.Orphans || len(second.Joined) != 1 || second.Joined[0].Host.Address != hostB || len(second.Had) > 0 {
			t.Errorf("from the second answer follows %+v", second)
		}
		if !all.Release() {
			t.Error("no upstream is without a configuration")
		}
		if n := r.hasOutcomes(); n != 2 {
			t.Errorf("something follows from the end: %+v", r.outcomes[2:])
		}
	})
}

// What waits for a first answer does not wait for one that nobody asks for any more.
func TestEndBeforeTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		all, _ := r.add(func(ctx context.Context) ([]*upstream.Endpoint, []string, error) {
			<-ctx.Done()
			return nil, nil, ctx.Err()
		})
		all.Start()
		synctest.Wait()
		if all.Release() {
			t.Error("an upstream is without a configuration")
		}
		if n := r.hasOutcomes(); n != 1 || !r.outcomes[0].Orphans || all.ArePending() {
			t.Errorf("there follows %+v", r.outcomes)
		}
		synctest.Wait()
		if sources, lost := r.set.Held(); sources != 0 || lost != 0 {
			t.Errorf("there are still %d sources and %d calls", sources, lost)
		}
	})
}

// A call that was told to come back finds nothing for those who are left.
func TestAnswerOfAnAbandonedCallDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		released := make(chan struct{})
		old, _ := r.add(hangs(released, gives(hostA)))
		old.Start()
		synctest.Wait()
		next, p := r.add(gives(hostB))
		next.Start()
		old.Release()
		synctest.Wait()
		close(released)
		synctest.Wait()
		if got := addressesOf(p); !slices.Equal(got, []string{hostB}) {
			t.Errorf("the upstreams are %v", got)
		}
		next.Release()
	})
}

func TestTooManyLostCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		r.set.callee.MaxLost = 0
		all, p := r.add(func(context.Context) ([]*upstream.Endpoint, []string, error) {
			t.Error("the source was asked")
			return nil, nil, errors.New("asked")
		})
		all.Start()
		if got := find(t, all, p, nil); !strings.Contains(got, "restart Caddy") {
			t.Errorf("the problem is %q", got)
		}
		all.Release()
	})
}

func TestLostCallsOfHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		all, p := r.add(nil)
		released := make(chan struct{})
		if got, want := find(t, all, p, hangs(released, gives(hostA))), "source scripted: no answer within 2s"; got != want {
			t.Errorf("the problem is %q, want %q", got, want)
		}
		synctest.Wait()
		if got := all[0].callee.Lost(); got != 1 {
			t.Errorf("%d calls are lost, want 1", got)
		}
		if _, got := r.set.Held(); got != 0 {
			t.Errorf("%d calls in the background are lost", got)
		}
		close(released)
		synctest.Wait()
		if got := all[0].callee.Lost(); got != 0 {
			t.Errorf("%d calls are lost, want none", got)
		}
	})
}

func TestUnusableIsToldNowAndThenInHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		all, p := r.add(nil)
		half := func(context.Context) ([]*upstream.Endpoint, []string, error) {
			return endpoints(hostA), []string{"nonsense"}, nil
		}
		for range 3 {
			find(t, all, p, half)
		}
		r.expectTold(t, "unusable: [nonsense]")
		time.Sleep(warnInterval)
		find(t, all, p, half)
		r.expectTold(t, "unusable: [nonsense]")
	})
}

func TestPlacesOfARoomStay(t *testing.T) {
	all, _ := newRig().add(nil)
	s := all[0]
	first, other := s.serverOf(hostA), s.serverOf(hostB)
	if again := s.serverOf(hostA); again != first || first == other {
		t.Error("an address has another place in each handshake, or two share one")
	}
	if first.Dial != hostA {
		t.Errorf("policies see %s", first.Dial)
	}
	for i := range 2 * maxServers {
		s.serverOf(fmt.Sprint("host:", i))
	}
	if got := len(s.servers.m); got > maxServers {
		t.Errorf("%d places are kept, want %d at most", got, maxServers)
	}
}

func TestFirstAnswerMayBringNewcomers(t *testing.T) {
	for name, tt := range map[string]struct {
		known []string
		want  []string
	}{
		"nothing was there":  {nil, nil},
		"one was there":      {[]string{hostA}, []string{hostB}},
		"all were there":     {[]string{hostA, hostB}, nil},
		"something else was": {[]string{hostC}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			table := newRig().table
			for _, address := range tt.known {
				table.Name(address, "")
			}
			if got := newcomers(table, nil, endpoints(hostA, hostB)); !slices.Equal(got, tt.want) {
				t.Errorf("newcomers are %v, want %v", got, tt.want)
			}
		})
	}
}

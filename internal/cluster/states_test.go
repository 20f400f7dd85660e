package cluster

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const (
	backend = "10.0.0.1:9000"
	// pickUp is how long it takes at most until all instances know what is set.
	pickUp = 5 * time.Second
)

// instance is what a process has of operators' states.
type instance struct {
	*States
	tb       testing.TB
	table    *fakeTable
	observed *observed
	// identity is what it is told that it is.
	identity func(context.Context) (id, host string, err error)
}

func newInstance(tb testing.TB) *instance {
	tb.Helper()
	i := &instance{tb: tb, table: &fakeTable{used: make(map[string]bool)}, observed: new(observed)}
	i.identity = func(context.Context) (id, host string, err error) { return "an id", "a host", nil }
	i.States = New(i.table, i.observed, patience)
	return i
}

// runInstance is an instance that looks at a storage until the test ends.
func runInstance(tb testing.TB, st Storage) *instance {
	tb.Helper()
	i := newInstance(tb)
	i.run(st)
	return i
}

// run has the instance look at a storage, as when a configuration is loaded.
func (i *instance) run(st Storage) (unload func()) {
	s := i.Attach(Config{Storage: st, Instance: i.identity, Observer: i.observed})
	unload = sync.OnceFunc(s.Detach)
	i.tb.Cleanup(unload)
	i.AwaitFirst(context.Background())
	return unload
}

// say sets a state that is expected to be stored.
func (i *instance) say(address, state string) {
	i.tb.Helper()
	if err := i.trySay(address, upstream.State{State: state}); err != nil {
		i.tb.Fatalf("setting %s to %s: %v", address, state, err)
	}
}

func (i *instance) trySay(address string, s upstream.State) error {
	s.By, s.At = "test", time.Now()
	return i.Set(context.Background(), address, s)
}

// sayUnstored sets a state that is expected not to be stored, which is not to
// take longer than most.
func (i *instance) sayUnstored(state, why string, most time.Duration) {
	i.tb.Helper()
	began := time.Now()
	err := i.trySay(backend, upstream.State{State: state})
	if err == nil || !strings.Contains(err.Error(), why) {
		i.tb.Errorf("setting %s: %v, want an error with %q", state, err, why)
	}
	if took := time.Since(began); took > most {
		i.tb.Errorf("setting %s took %v, want at most %v", state, took, most)
	}
	i.expect(state)
}

// expect checks what counts for the backend.
func (i *instance) expect(want string) {
	i.tb.Helper()
	got := i.stateOf(backend)
	if got == "" {
		got = upstream.Ready
	}
	if got != want {
		i.tb.Errorf("%s is %s, want %s", backend, got, want)
	}
}

// stateOf is what counts for an address; empty if that is nothing.
func (i *instance) stateOf(address string) string {
	return i.table.stateOf(address).State
}

// expectObserved checks how often the observer was told something.
func (i *instance) expectObserved(want map[event]int) {
	i.tb.Helper()
	events := i.observed.all()
	for what, n := range want {
		got := 0
		for _, e := range events {
			if e == what {
				got++
			}
		}
		if got != n {
			i.tb.Errorf("the observer was told %d times that %s, want %d; all: %q", got, what, n, events)
		}
	}
}

func TestStatesReachAllInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		if keys := st.keys(); len(keys) > 0 {
			t.Errorf("before anything is said, %v is stored", keys)
		}
		for round, state := range []string{upstream.Drain, upstream.Evict, upstream.Ready, upstream.Maint, upstream.Drain, upstream.Evict} {
			here, there := a, b
			if round%2 == 1 {
				here, there = b, a
			}
			here.say(backend, state)
			here.expect(state)
			time.Sleep(pickUp)
			there.expect(state)
		}
		a.expectObserved(map[event]int{toldChanged: 6, toldFails: 0, toldWorks: 0, toldFound: 0})
		b.expectObserved(map[event]int{toldChanged: 6, toldFails: 0, toldWorks: 0, toldFound: 0})
		if by := b.table.stateOf(backend).By; by != "test" {
			t.Errorf("it is said to be set by %q", by)
		}
		stored := st.count("Store")
		time.Sleep(10 * time.Minute)
		if got := st.count("Store"); got != stored {
			t.Errorf("%d times something was stored, although nothing was set", got-stored)
		}
		if _, most := st.atATime(); most > 2 {
			t.Errorf("%d calls at a time, of two instances", most)
		}
		st.expectUnlocked(t)
	})
}

func TestLocalStatesAreTheInstancesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a := newInstance(t)
		unload := a.run(st)
		a.say("127.0.0.1:9000", upstream.Drain)
		a.say("unix//run/app.sock", upstream.Evict)
		a.say(backend, upstream.Drain)
		if got := st.states(t, sharedKey); len(got) != 1 || got[backend].State != upstream.Drain {
			t.Errorf("%v is shared, want %s only", got, backend)
		}
		unload()
		// As if somebody had written what does not belong there.
		st.put(sharedKey, `{"version": 1, "upstreams": {"localhost:80": {"state": "drain", "at": "2000-01-01T00:00:00Z"}}}`)
		b := runInstance(t, st)
		if got := b.stateOf("unix//run/app.sock"); got != upstream.Evict {
			t.Errorf("after a restart, the unix socket is %q, want evict", got)
		}
		if got := b.stateOf("localhost:80"); got != "" {
			t.Errorf("localhost is %q, which was shared", got)
		}
	})
}

func TestStatesSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a := newInstance(t)
		unload := a.run(st)
		a.say(backend, upstream.Evict)
		a.say("10.0.0.2:9000", upstream.Drain)
		a.say("10.0.0.3:9000", upstream.Drain)
		a.say("10.0.0.3:9000", upstream.Ready)
		unload()
		time.Sleep(time.Hour)
		b := runInstance(t, st) // and no time passes
		b.expect(upstream.Evict)
		b.expectObserved(map[event]int{toldFound: 1, toldChanged: 0})
		if states := b.observed.found; len(states) != 2 || states[backend].State != upstream.Evict {
			t.Errorf("found are %v", states)
		}
	})
}

func TestAnEvictionBeginsOnceAtEveryInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		a.say(backend, upstream.Evict)
		time.Sleep(time.Minute)
		st.wipe()
		time.Sleep(time.Minute)
		for _, i := range []*instance{a, b} {
			if evicted, _ := i.table.told(); !slices.Equal(evicted, []string{backend}) {
				t.Errorf("an instance has begun to empty %v, want %s", evicted, backend)
			}
		}
		b.say(backend, upstream.Evict)
		time.Sleep(pickUp)
		a.say(backend, upstream.Ready)
		time.Sleep(pickUp)
		for _, i := range []*instance{a, b} {
			evicted, became := i.table.told()
			if !slices.Equal(evicted, []string{backend, backend}) || !slices.Equal(became, []string{backend}) {
				t.Errorf("an instance has begun to empty %v, and %v have become ready; want %s twice and once",
					evicted, became, backend)
			}
		}
	})
}

func TestStatesExpire(t *testing.T) {
	for name, trouble := range map[string]func(context.Context, string) error{"with a storage": nil, "without": down} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newFakeStorage()
				a := newInstance(t)
				unload := a.run(st)
				st.be(trouble)
				expires := time.Now().Add(time.Hour)
				err := a.trySay(backend, upstream.State{State: upstream.Drain, Expires: expires})
				if (err != nil) != (trouble != nil) {
					t.Fatalf("setting: %v", err)
				}
				time.Sleep(time.Hour - time.Second)
				a.expect(upstream.Drain)
				time.Sleep(pickUp)
				a.expect(upstream.Ready)
				if _, became := a.table.told(); !slices.Equal(became, []string{backend}) {
					t.Errorf("%v have become ready, want %s", became, backend)
				}
				a.expectObserved(map[event]int{toldChanged: 2})
				last := a.observed.changes[1]
				if last.Address != backend || last.State.State != upstream.Ready || last.Cause != Expired {
					t.Errorf("the last change is %+v", last)
				}
				unload()
				runInstance(t, st).expect(upstream.Ready)
			})
		})
	}
}

func TestTheLastWordCountsWhateverTheClocksSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		ahead := time.Now().Add(time.Hour).Format(time.RFC3339Nano)
		st.put(sharedKey, `{"version": 1, "upstreams": {"`+backend+`": {"state": "drain", "at": "`+ahead+`"}}}`)
		a := runInstance(t, st)
		a.expect(upstream.Maint)
		a.say(backend, upstream.Ready)
		time.Sleep(time.Minute)
		a.expect(upstream.Ready)
		if got := st.states(t, sharedKey)[backend].State; got != upstream.Ready {
			t.Errorf("%s is stored, want ready", got)
		}
	})
}

// stored is a document that an older instance has written, and that says for a while that
// upstreams are drained.
func stored(ago time.Duration, addresses ...string) string {
	at := time.Now().Add(-ago).Format(time.RFC3339)
	var list []string
	for _, address := range addresses {
		list = append(list, `"`+address+`": {"state": "drain", "at": "`+at+`"}`)
	}
	return `{"version": 1, "upstreams": {` + strings.Join(list, ", ") + `}}`
}

func TestUnusedStatesAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const other = "10.0.0.2:9000"
		st := newFakeStorage()
		st.put(sharedKey, stored(dropAfter-upstream.NamedInterval/2, backend, other))
		a, b := runInstance(t, st), newInstance(t)
		b.table.use(backend, true)
		b.run(st)
		time.Sleep(3 * upstream.NamedInterval)
		a.expect(upstream.Maint) // as the other instance has it
		if got := a.stateOf(other); got != "" {
			t.Errorf("what nobody has had for more than a day is %s", got)
		}
		if got, most := st.count("Store"), 5; got > most {
			t.Errorf("stored %d times in three hours, want at most %d", got, most)
		}
		b.table.use(backend, false)
		time.Sleep(dropAfter - 2*upstream.NamedInterval)
		a.expect(upstream.Maint)
		time.Sleep(3 * upstream.NamedInterval)
		a.expect(upstream.Ready)
		b.expect(upstream.Ready)
		if got := st.states(t, sharedKey); len(got) > 0 {
			t.Errorf("%v is still stored", got)
		}
	})
}

// TestAnOlderWordIsNoNewerOne has what one says overtaken by what another one says, on
// the way to the table. Nobody waits for that.
func TestAnOlderWordIsNoNewerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newInstance(t)
		held := make(chan struct{})
		a.table.delay(held)
		said := make(chan struct{})
		go func() {
			defer close(said)
			_ = a.trySay(backend, upstream.State{State: upstream.Evict})
		}()
		synctest.Wait() // it is known, and does not count yet
		a.expect(upstream.Ready)
		a.table.delay(nil)
		_ = a.trySay(backend, upstream.State{State: upstream.Drain})
		a.expect(upstream.Drain)
		close(held)
		<-said
		a.expect(upstream.Drain)
		if evicted, _ := a.table.told(); len(evicted) > 0 {
			t.Errorf("%v is to be emptied", evicted)
		}
		a.expectObserved(map[event]int{toldChanged: 2})
	})
}

// TestTheTableMayAskBack has a table that asks for itself while it is told.
func TestTheTableMayAskBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		st.put(sharedKey, stored(2*dropAfter, backend))
		a := newInstance(t)
		a.table.use(backend, true)
		var asked atomic.Int32
		a.table.back = func() {
			asked.Add(1)
			a.mu.Lock() // as any call would
			defer a.mu.Unlock()
		}
		a.run(st)
		a.say("10.0.0.2:9000", upstream.Drain)
		if asked.Load() == 0 {
			t.Error("the table was told nothing")
		}
	})
}

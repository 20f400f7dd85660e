package websocketproxy

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const (
	backend = "10.0.0.1:9000"
	// pickUp is how long it takes at most until all instances know what is set.
	pickUp = 5 * time.Second
)

// instance is what a Caddy process has of operators' states.
type instance struct {
	*keeper
	tb   testing.TB
	logs *observer.ObservedLogs
	log  *zap.Logger

	effects sync.Mutex // guards what follows
	evicted []string
	became  []string
}

func newInstance(tb testing.TB) *instance {
	tb.Helper()
	i := &instance{tb: tb}
	core, logs := observer.New(zapcore.InfoLevel)
	i.logs, i.log = logs, zap.New(core)
	table := &hostTable{
		m:      make(map[string]*host),
		states: make(map[string]upstream.State),
		asked:  make(map[string]time.Time),
	}
	i.keeper = newKeeper(table, func(address string, _ time.Duration) {
		i.effects.Lock()
		defer i.effects.Unlock()
		i.evicted = append(i.evicted, address)
	}, func(addresses []string) {
		i.effects.Lock()
		defer i.effects.Unlock()
		i.became = append(i.became, addresses...)
	})
	return i
}

// runInstance is an instance that looks at a storage until the test ends.
func runInstance(tb testing.TB, st storage) *instance {
	tb.Helper()
	i := newInstance(tb)
	i.run(st)
	return i
}

// told returns what is to be emptied, and what has become ready, so far.
func (i *instance) told() (evicted, became []string) {
	i.effects.Lock()
	defer i.effects.Unlock()
	return slices.Clone(i.evicted), slices.Clone(i.became)
}

// run has the instance look at a storage, as when a configuration is loaded.
func (i *instance) run(st storage) (unload func()) {
	s := i.attach(st, i.log)
	unload = sync.OnceFunc(func() { i.detach(s) })
	i.tb.Cleanup(unload)
	i.awaitFirst()
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
	return i.set(context.Background(), address, s)
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
	got := i.table.stateOf(backend).State
	if got == "" {
		got = upstream.Ready
	}
	if got != want {
		i.tb.Errorf("%s is %s, want %s", backend, got, want)
	}
}

// expectLines checks how many log lines there are with each of some words.
func (i *instance) expectLines(want map[string]int) {
	i.tb.Helper()
	for words, n := range want {
		got := i.logs.Filter(func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, words) })
		if got.Len() != n {
			i.tb.Errorf("%d lines have %q, want %d: %v", got.Len(), words, n, got.All())
		}
	}
}

// inBubble runs a test with a clock of its own, and a directory for the id of
// the instance.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AppData", t.TempDir())
	synctest.Test(t, test)
}

func TestStatesReachAllInstances(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		if keys := st.keys(); len(keys) > 0 {
			t.Errorf("before anything is said, %v is stored", keys)
		}
		for round, state := range []string{upstream.Drain, upstream.Evict, upstream.Ready, upstream.Evict} {
			here, there := a, b
			if round%2 == 1 {
				here, there = b, a
			}
			here.say(backend, state)
			here.expect(state)
			time.Sleep(pickUp)
			there.expect(state)
		}
		a.expectLines(map[string]int{"upstream state changed": 4, "storage": 0, "found": 0})
		b.expectLines(map[string]int{"upstream state changed": 4, "storage": 0, "found": 0})
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
	inBubble(t, func(t *testing.T) {
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
		if got := b.table.stateOf("unix//run/app.sock").State; got != upstream.Evict {
			t.Errorf("after a restart, the unix socket is %q, want evict", got)
		}
		if got := b.table.stateOf("localhost:80").State; got != "" {
			t.Errorf("localhost is %q, which was shared", got)
		}
	})
}

func TestStatesSurviveARestart(t *testing.T) {
	inBubble(t, func(t *testing.T) {
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
		b.expectLines(map[string]int{"upstream states found": 1, "upstream state changed": 0})
		list := b.logs.FilterMessage("upstream states found").All()[0].ContextMap()["states"]
		states, _ := list.([]any)
		if len(states) != 2 || !strings.Contains(states[0].(string), backend+" evict since") {
			t.Errorf("the line has %v", list)
		}
	})
}

func TestAnEvictionBeginsOnceAtEveryInstance(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		a.say(backend, upstream.Evict)
		time.Sleep(time.Minute)
		st.wipe()
		time.Sleep(time.Minute)
		for _, i := range []*instance{a, b} {
			if evicted, _ := i.told(); !slices.Equal(evicted, []string{backend}) {
				t.Errorf("an instance has begun to empty %v, want %s", evicted, backend)
			}
		}
		b.say(backend, upstream.Evict)
		time.Sleep(pickUp)
		a.say(backend, upstream.Ready)
		time.Sleep(pickUp)
		for _, i := range []*instance{a, b} {
			evicted, became := i.told()
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
			inBubble(t, func(t *testing.T) {
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
				if _, became := a.told(); !slices.Equal(became, []string{backend}) {
					t.Errorf("%v have become ready, want %s", became, backend)
				}
				a.expectLines(map[string]int{"upstream state changed": 2})
				last := a.logs.FilterMessage("upstream state changed").All()[1].ContextMap()
				expectFields(t, last, map[string]any{"upstream": backend, "state": "ready", "cause": "expired"})
				unload()
				runInstance(t, st).expect(upstream.Ready)
			})
		})
	}
}

func TestTheLastWordCountsWhateverTheClocksSay(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		st := newFakeStorage()
		ahead := time.Now().Add(time.Hour).Format(time.RFC3339Nano)
		st.put(sharedKey, `{"version": 1, "upstreams": {"`+backend+`": {"state": "drain", "at": "`+ahead+`"}}}`)
		a := runInstance(t, st)
		a.expect(upstream.Drain)
		a.say(backend, upstream.Ready)
		time.Sleep(time.Minute)
		a.expect(upstream.Ready)
		if got := st.states(t, sharedKey)[backend].State; got != upstream.Ready {
			t.Errorf("%s is stored, want ready", got)
		}
	})
}

// stored is a document that says for a while that upstreams are drained.
func stored(ago time.Duration, addresses ...string) string {
	at := time.Now().Add(-ago).Format(time.RFC3339)
	var list []string
	for _, address := range addresses {
		list = append(list, `"`+address+`": {"state": "drain", "at": "`+at+`"}`)
	}
	return `{"version": 1, "upstreams": {` + strings.Join(list, ", ") + `}}`
}

func TestUnusedStatesAreDropped(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const other = "10.0.0.2:9000"
		st := newFakeStorage()
		st.put(sharedKey, stored(dropAfter-namedInterval/2, backend, other))
		a, b := runInstance(t, st), newInstance(t)
		h := b.table.name(backend, "")
		b.run(st)
		time.Sleep(3 * namedInterval)
		a.expect(upstream.Drain) // as the other instance has it
		if got := a.table.stateOf(other).State; got != "" {
			t.Errorf("what nobody has had for more than a day is %s", got)
		}
		if got, most := st.count("Store"), 5; got > most {
			t.Errorf("stored %d times in three hours, want at most %d", got, most)
		}
		b.table.unname(h, "", false)
		time.Sleep(dropAfter - 2*namedInterval)
		a.expect(upstream.Drain)
		time.Sleep(3 * namedInterval)
		a.expect(upstream.Ready)
		b.expect(upstream.Ready)
		if got := st.states(t, sharedKey); len(got) > 0 {
			t.Errorf("%v is still stored", got)
		}
	})
}

func TestExpandedAddressesAreInUse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		st := newFakeStorage()
		st.put(sharedKey, stored(dropAfter-2*namedInterval, backend))
		a := runInstance(t, st)
		for range 5 {
			a.table.release(a.table.acquire(backend, "")) // a handshake that is refused
			time.Sleep(namedInterval)
		}
		a.expect(upstream.Drain)
		time.Sleep(dropAfter + 2*namedInterval)
		a.expect(upstream.Ready)
		a.table.mu.Lock()
		defer a.table.mu.Unlock()
		if len(a.table.asked) > 0 {
			t.Errorf("%v is still remembered", a.table.asked)
		}
	})
}

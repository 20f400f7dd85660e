package cluster

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// fakeTable is where states count in tests.
type fakeTable struct {
	back func() // called whenever the table is

	mu     sync.Mutex // guards what follows
	held   <-chan struct{}
	number uint64
	states map[string]upstream.State
	used   map[string]bool
	// evicted are to be emptied, and became have become ready, one after another.
	evicted, became []string
}

func (t *fakeTable) SetStates(number uint64, states map[string]upstream.State) (follow func()) {
	t.called()
	t.mu.Lock()
	defer t.mu.Unlock()
	var evicted, became []string
	if number > t.number {
		for address, s := range states {
			if was := t.states[address]; s.State == upstream.Evict && (was.State != upstream.Evict || !was.At.Equal(s.At)) {
				evicted = append(evicted, address)
			}
		}
		for address := range t.states {
			if _, still := states[address]; !still {
				became = append(became, address)
			}
		}
		t.number, t.states = number, states
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.evicted = append(t.evicted, evicted...)
		t.became = append(t.became, became...)
	}
}

func (t *fakeTable) Uses(address string) bool {
	t.called()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used[address]
}

func (t *fakeTable) called() {
	t.mu.Lock()
	held := t.held
	t.mu.Unlock()
	if held != nil {
		<-held
	}
	if t.back != nil {
		t.back()
	}
}

// delay has those who call the table from now on wait.
func (t *fakeTable) delay(held <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = held
}

// use has an address in use, or not any more.
func (t *fakeTable) use(address string, is bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used[address] = is
}

func (t *fakeTable) stateOf(address string) upstream.State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.states[address]
}

// told returns what is to be emptied, and what has become ready, so far.
func (t *fakeTable) told() (evicted, became []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.evicted), slices.Clone(t.became)
}

// event is what an observer is told.
type event string

const (
	toldFound   event = "states are found"
	toldChanged event = "a state has changed"
	toldFails   event = "the storage fails"
	toldWorks   event = "the storage works"
	toldAhead   event = "times are ahead"
)

// observed is what an observer was told.
type observed struct {
	mu      sync.Mutex // guards what follows
	events  []event
	found   map[string]upstream.State
	changes []Change
}

func (o *observed) Found(states map[string]upstream.State) {
	o.add(toldFound)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.found = maps.Clone(states)
}

func (o *observed) Changed(c Change) {
	o.add(toldChanged)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.changes = append(o.changes, c)
}

func (o *observed) Fails(error)     { o.add(toldFails) }
func (o *observed) Works()          { o.add(toldWorks) }
func (o *observed) Exchanged(error) {}
func (o *observed) Ahead([]string)  { o.add(toldAhead) }

func (o *observed) add(e event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}

func (o *observed) all() []event {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.events)
}

// patience is how long instances wait for what is stored.
const patience = time.Second

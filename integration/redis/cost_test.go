package redis_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/integration/redis"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/cluster"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// measured is how long calls are counted.
func measured() time.Duration { return long(time.Minute, 12*time.Second) }

// perMinute tells how often each of so many sharers has called the server in a minute.
func perMinute(tb testing.TB, all calls, sharers int, period time.Duration) float64 {
	tb.Helper()
	each := float64(all.sum()) / float64(sharers) / period.Minutes()
	tb.Logf("%d sharers, %v: %v; %.1f calls a minute each", sharers, period, all, each)
	return each
}

// mostCalls bounds what a sharer may call in a minute when nothing changes: it looks at
// most every 2 seconds.
const mostCalls = 31

// TestWhatProcessesAsk counts what three Caddys ask the server for in a minute.
func TestWhatProcessesAsk(t *testing.T) {
	c := startCluster(t, 3)
	c.caddys[0].set(t, one, "drain")
	c.agree(t, one, "drain")
	before := c.calls(t)
	time.Sleep(measured())
	all := c.calls(t).since(before)
	if each := perMinute(t, all, len(c.caddys), measured()); each > mostCalls || all["hget"] != all.sum() {
		t.Errorf("each asks %.1f times a minute, want %d at most, and only for values: %v", each, mostCalls, all)
	}
	before = c.calls(t)
	c.caddys[1].set(t, one, "ready")
	c.agree(t, one, "ready")
	t.Logf("a change: %v", c.calls(t).since(before))
}

// table is where states count for a sharer.
type table struct {
	mu     sync.Mutex
	states map[string]upstream.State
}

func (t *table) SetStates(_ uint64, states map[string]upstream.State) func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.states = states
	return func() {}
}

func (t *table) Uses(string) bool { return true }

func (t *table) is(address, state string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.states[address].State == state
}

// silent takes no notice of what happens.
type silent struct{}

func (silent) Found(map[string]upstream.State) {}
func (silent) Changed(cluster.Change)          {}
func (silent) Fails(error)                     {}
func (silent) Works()                          {}
func (silent) Exchanged(error)                 {}
func (silent) Ahead([]string)                  {}

// TestWhatManySharersAsk has a hundred in this process, each with a storage of its own.
func TestWhatManySharersAsk(t *testing.T) {
	const sharers = 100
	s := startServer(t)
	tables, all := make([]*table, sharers), make([]*cluster.States, sharers)
	for i := range sharers {
		storage := redis.New(s.address)
		tables[i] = new(table)
		all[i] = cluster.New(tables[i], silent{}, time.Second)
		sync := all[i].Attach(cluster.Config{
			Storage: storage,
			Instance: func(context.Context) (id, host string, err error) {
				return fmt.Sprintf("instance-%d", i), "host", nil
			},
			Observer: silent{},
		})
		t.Cleanup(func() {
			sync.Detach()
			_ = storage.Cleanup()
		})
	}
	change := func(by int, state string) {
		t.Helper()
		before := s.calls(t)
		said := upstream.State{State: state, By: "test", At: time.Now()}
		if err := all[by].Set(t.Context(), one, said); err != nil {
			t.Errorf("%s was not stored: %v", state, err)
		}
		held := state
		if state == upstream.Ready {
			held = "" // as nothing is to be known of it
		}
		took := eventually(t, "all have seen it", func() bool {
			for _, t := range tables {
				if !t.is(one, held) {
					return false
				}
			}
			return true
		})
		t.Logf("%s was seen by %d sharers after %v, with %v", state, sharers, took.Round(time.Millisecond), s.calls(t).since(before))
	}
	change(0, upstream.Drain)
	before := s.calls(t)
	time.Sleep(measured())
	called := s.calls(t).since(before)
	if each := perMinute(t, called, sharers, measured()); each > mostCalls || called["hget"] != called.sum() {
		t.Errorf("each asks %.1f times a minute, want %d at most, and only for values: %v", each, mostCalls, called)
	}
	change(sharers-1, upstream.Ready)
}

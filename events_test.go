package websocketproxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func init() { caddy.RegisterModule(new(eventNotes)) }

// eventNotes is a handler of events that notes them, or never returns, as one that runs
// commands may.
type eventNotes struct {
	Blocks bool `json:"blocks,omitempty"`
}

// noted is what all handlers have noted, and free ends those that block.
var noted struct {
	mu   sync.Mutex
	all  []caddy.Event
	free chan struct{}
}

// CaddyModule implements caddy.Module.
func (*eventNotes) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_notes", New: func() caddy.Module { return new(eventNotes) }}
}

// Handle implements caddyevents.Handler.
func (n *eventNotes) Handle(_ context.Context, e caddy.Event) error {
	noted.mu.Lock()
	noted.all = append(noted.all, e)
	free := noted.free
	noted.mu.Unlock()
	if n.Blocks {
		<-free
	}
	return nil
}

// expectEvent waits for the next event with this name, and compares its data.
func expectEvent(t *testing.T, name string, want map[string]any) {
	t.Helper()
	var got caddy.Event
	eventually(t, name, func() bool {
		noted.mu.Lock()
		defer noted.mu.Unlock()
		i := slices.IndexFunc(noted.all, func(e caddy.Event) bool { return e.Name() == name })
		if i < 0 {
			return false
		}
		got = noted.all[i]
		noted.all = slices.Delete(noted.all, i, i+1)
		return true
	})
	text, err := json.Marshal(got.Data)
	wanted, _ := json.Marshal(want)
	if err != nil || string(text) != string(wanted) {
		t.Errorf("%s has %s, want %s (%v)", name, text, wanted, err)
	}
	if got.Origin() == nil || got.Origin().CaddyModule().ID != statesAppID {
		t.Errorf("%s comes from %v", name, got.Origin())
	}
}

// expectNoEvent expects that no event with this name has come.
func expectNoEvent(t *testing.T, name string) {
	t.Helper()
	noted.mu.Lock()
	defer noted.mu.Unlock()
	for _, e := range noted.all {
		if e.Name() == name {
			t.Errorf("%s has come: %v", name, e.Data)
		}
	}
}

// runWithEvents runs, or reloads, a Caddy in this process whose handler of events gets
// all of them. It returns its address.
func runWithEvents(t *testing.T, blocks bool, dials ...string) string {
	t.Helper()
	config, apps := caddyConfig("FATAL", map[string]any{}, map[string]any{"name": "chat", "upstreams": upstreams(dials...)})
	config["storage"] = map[string]any{"module": "file_system", "root": t.TempDir()}
	apps["events"] = map[string]any{"subscriptions": []any{map[string]any{
		"events": events.Names(), "handlers": []any{map[string]any{"handler": "test_notes", "blocks": blocks}},
	}}}
	return loadCaddy(t, config)
}

// withEvents runs a Caddy until the test ends.
func withEvents(t *testing.T, blocks bool, dials ...string) string {
	t.Helper()
	noted.mu.Lock()
	noted.all, noted.free = nil, make(chan struct{})
	noted.mu.Unlock()
	_ = t.TempDir() // all of them are removed when Caddy has stopped, which writes to its storage
	t.Cleanup(func() {
		stopCaddy(t)
		close(noted.free)
	})
	return runWithEvents(t, blocks, dials...)
}

// say has an operator say something of an upstream.
func say(t *testing.T, address, state string) {
	t.Helper()
	s := upstream.State{State: state, By: "me", At: time.Now()}
	if err := process.operators.Set(t.Context(), address, s); err != nil {
		t.Fatal(err)
	}
}

func stateChanged(address, from, to string) map[string]any {
	return map[string]any{"address": address, "from": from, "to": to, "by": "me", "cause": "set here"}
}

func TestARolloutCanWaitForAnEmptyUpstream(t *testing.T) {
	for _, state := range []string{upstream.Drain, upstream.Maint} {
		t.Run(state, func(t *testing.T) { waitsUntilItIsEmpty(t, state) })
	}
}

func waitsUntilItIsEmpty(t *testing.T, state string) {
	t.Helper()
	first, second := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	addr := withEvents(t, false, first.Addr)
	clients := make([]*testbed.Client, 2)
	for i := range clients {
		clients[i] = testbed.Dial(t, addr)
		clients[i].Handshake("/")
	}
	say(t, first.Addr, state)
	expectEvent(t, events.UpstreamStateChanged, stateChanged(first.Addr, "ready", state))
	clients[0].CloseHandshake(1000)
	eventually(t, "one is left", func() bool { return tunnelsOf(first.Addr) == 1 })
	expectNoEvent(t, events.UpstreamEmpty)
	clients[1].CloseHandshake(1000)
	expectEvent(t, events.UpstreamEmpty, map[string]any{"address": first.Addr, "state": state})

	say(t, first.Addr, upstream.Evict) // when it is empty already
	expectEvent(t, events.UpstreamStateChanged, stateChanged(first.Addr, state, "evict"))
	expectEvent(t, events.UpstreamEmpty, map[string]any{"address": first.Addr, "state": "evict"})
	say(t, first.Addr, upstream.Ready)
	expectEvent(t, events.UpstreamStateChanged, stateChanged(first.Addr, "evict", "ready"))

	c := testbed.Dial(t, addr)
	c.Handshake("/")
	c.Echo("it has begun") // else the reload may come before, and there is nothing to move
	runWithEvents(t, false, second.Addr)
	expectEvent(t, events.UpstreamsChanged, map[string]any{
		"by": "reload", "handler": "chat", "added": []string{second.Addr}, "removed": []string{first.Addr},
	})
	expectEvent(t, events.TunnelsMoved, map[string]any{
		"reason": "evicted", "by": "reload", "tunnels": 1, "upstreams": []string{first.Addr},
	})
	c.Close()
	expectEvent(t, events.UpstreamEmpty, map[string]any{"address": first.Addr, "state": "removed"})
	for _, name := range events.Names() {
		expectNoEvent(t, name)
	}
}

func TestEventsOfChecksSourcesAndQueues(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	withEvents(t, false, up.Addr)
	c := &activeCheck{settings: ActiveHealthChecks{Kind: "http", URI: "/health"}, logger: zap.NewNop()}
	c.Down("a.test:80", errors.New("status 500\u009b"))
	expectEvent(t, events.UpstreamDown, map[string]any{"address": "a.test:80", "check": "http /health", "error": `status 500\u009b`})
	c.Up("a.test:80")
	expectEvent(t, events.UpstreamUp, map[string]any{"address": "a.test:80", "check": "http /health"})
	(&sourceLog{zap.NewNop(), "srv"}).Found([]string{"b.test:80", "a.test:80"}, nil)
	expectEvent(t, events.UpstreamsChanged, map[string]any{
		"by": "source", "source": "srv", "added": []string{"a.test:80", "b.test:80"}, "removed": []string{},
	})

	h := narrow(up.Addr)
	h.Name, h.LoadBalancing.Queue.Size = "full", 1
	load(t, h)
	p := serve(t, h)
	open, waits := testbed.Dial(t, p.Addr), testbed.Dial(t, p.Addr)
	open.Handshake("/")
	waits.Send(testbed.HandshakeRequest("/", waits.Host))
	eventually(t, "it waits", func() bool { return queued(h) == 1 })
	for range 3 {
		expectRefused(t, p, http.StatusServiceUnavailable)
	}
	expectEvent(t, events.QueueFull, map[string]any{"handler": "full", "limit": 1})
	open.Close()
	waits.Response()
	waits.Close()
}

func TestAHandlerOfEventsThatNeverReturnsHoldsNothingUp(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	addr := withEvents(t, true, up.Addr)
	before := process.events.Dropped()
	for range 1000 {
		process.events.Emit(events.UpstreamDown, nil)
	}
	if process.events.Dropped() == before {
		t.Error("no event was dropped")
	}
	for range 2 {
		c := testbed.Dial(t, addr)
		c.Handshake("/")
		c.Echo("still at work")
		say(t, up.Addr, upstream.Drain)
		say(t, up.Addr, upstream.Ready)
		c.CloseHandshake(1000)
		addr = runWithEvents(t, true, up.Addr)
	}
	// The end of the test stops Caddy, before the handlers return.
}

func TestEventsAreDocumented(t *testing.T) {
	if got, want := slices.Sorted(slices.Values(firstCellsOf(t, "docs/operations.md", "Events"))), slices.Sorted(slices.Values(events.Names())); !slices.Equal(got, want) {
		t.Errorf("docs/operations.md explains the events %q, want %q", got, want)
	}
}

package websocketproxy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const slowStart = 100 * time.Second

func startingSlowly(dials ...string) *Handler {
	return &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{SlowStart: caddy.Duration(slowStart)},
	}
}

func TestWhatStartsSlowly(t *testing.T) {
	for name, join := range map[string]func(h *Handler){
		"what an operator makes ready": func(*Handler) {
			operate(upstream.Drain, "a:1")
			operate(upstream.Ready, "a:1")
		},
		"what was in maint": func(*Handler) {
			operate(upstream.Maint, "a:1")
			operate(upstream.Ready, "a:1")
		},
		"what has not failed any more": func(h *Handler) {
			fail(h, 0, settings.DefaultMaxFails)
			time.Sleep(settings.DefaultFailDuration)
			synctest.Wait()
		},
		"what passes its check again": func(h *Handler) {
			process.table.Report(h.pool.Fixed[0].Verdict, "down", 1, 1)
			process.table.Report(h.pool.Fixed[0].Verdict, "", 1, 1)
		},
		"what is found": func(h *Handler) { process.evictor.Discovered(h.pool.Fixed[:1], nil) },
	} {
		t.Run(name, func(t *testing.T) {
			h := startingSlowly("a:1", "b:1")
			h.HealthChecks = &HealthChecks{Active: &ActiveHealthChecks{Kind: health.TCP}}
			bubble(t, h, func(t *testing.T) {
				join(h)
				if joinedAt(t, h, "a:1").IsZero() {
					t.Error("it does not")
				}
				if joined := joinedAt(t, h, "b:1"); !joined.IsZero() {
					t.Errorf("what was there all the time starts slowly from %v on", joined)
				}
				time.Sleep(slowStart)
			})
		})
	}
}

// joinedAt is since when an upstream gets tunnels in the pool of h.
func joinedAt(t *testing.T, h *Handler, address string) time.Time {
	t.Helper()
	return h.pool.SlowSince(address)
}

func TestSlowStartGoesOnAfterAReload(t *testing.T) {
	old := startingSlowly("a:1", "b:1")
	unload := load(t, old)
	bubble(t, startingSlowly("x:1"), func(t *testing.T) {
		fail(old, 0, settings.DefaultMaxFails)
		time.Sleep(settings.DefaultFailDuration)
		synctest.Wait()
		since := joinedAt(t, old, "a:1")
		time.Sleep(time.Second)
		after := startingSlowly("a:1", "b:1")
		load(t, after)
		process.evictor.Start(after.loaded)
		unload()
		if got := joinedAt(t, after, "a:1"); since.IsZero() || !got.Equal(since) {
			t.Errorf("starts slowly from %v on, want %v", got, since)
		}
		if got := joinedAt(t, after, "b:1"); !got.IsZero() {
			t.Errorf("what was there starts slowly from %v on", got)
		}
		time.Sleep(slowStart)
	})
}

func TestReloadStartsNewcomersSlowly(t *testing.T) {
	old := startingSlowly("a:1", "b:1")
	unload := load(t, old)
	bubble(t, startingSlowly("x:1"), func(t *testing.T) {
		after := startingSlowly("a:1", "b:1", "new:1")
		load(t, after)
		unload()
		for address, newcomer := range map[string]bool{"a:1": false, "b:1": false, "new:1": true} {
			if joined := !joinedAt(t, after, address).IsZero(); joined != newcomer {
				t.Errorf("%s is a newcomer: %v, want %v", address, joined, newcomer)
			}
		}
		time.Sleep(slowStart)
	})
}

// The server may take handshakes before the configuration is known to be in force.
func TestReloadStartsNewcomersSlowlyThatHaveTunnelsAlready(t *testing.T) {
	old, other := startingSlowly("a:1"), startingSlowly("busy:1")
	bubble(t, old, func(t *testing.T) {
		after := startingSlowly("a:1", "busy:1", "new:1")
		load(t, after)
		held := []*upstream.Host{reserve("new:1"), reserve("busy:1")}
		process.evictor.Start(after.loaded)
		slow, fast := joinedAt(t, after, "new:1"), joinedAt(t, after, "busy:1")
		if slow.IsZero() {
			t.Error("a newcomer with tunnels has not started slowly")
		}
		if !fast.IsZero() {
			t.Error("what another pool has had with tunnels has started slowly")
		}
		for _, h := range held {
			process.table.TunnelEnded(h)
		}
	}, other)
}

package websocketproxy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const slowStart = 100 * time.Second

func startingSlowly(dials ...string) *Handler {
	return &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{SlowStart: caddy.Duration(slowStart)},
	}
}

// shareOf returns the part of many choices that goes to an address. Its tunnels
// end at once, so that it stays empty, and the others have some.
func shareOf(t *testing.T, h *Handler, address string) float64 {
	t.Helper()
	const choices = 5000
	n := 0
	for range choices {
		if chooses(t, h) == address {
			n++
		}
	}
	return float64(n) / choices
}

// TestShareOfANewcomerGrowsLinearly has an empty upstream join others that have
// tunnels, so that least_conn would send everybody there.
func TestShareOfANewcomerGrowsLinearly(t *testing.T) {
	for name, join := range map[string]func(t *testing.T, h *Handler){
		"an operator makes it ready": func(t *testing.T, _ *Handler) {
			t.Helper()
			operate(upstream.Drain, "new:1")
			time.Sleep(time.Hour)
			operate(upstream.Ready, "new:1")
		},
		"it has recovered": func(t *testing.T, h *Handler) {
			t.Helper()
			for range defaultMaxFails {
				hosts.Failed(h.pool.Fixed[2].Failures)
			}
			time.Sleep(defaultFailDuration)
			synctest.Wait()
		},
		"it is found": func(_ *testing.T, h *Handler) { evictions.Discovered(h.pool.Fixed[2:], nil) },
	} {
		t.Run(name, func(t *testing.T) {
			h := startingSlowly("a:1", "b:1", "new:1")
			bubble(t, h, func(t *testing.T) {
				held := []*upstream.Host{reserve("a:1"), reserve("b:1")}
				if got := shareOf(t, h, "new:1"); got != 1 {
					t.Errorf("share of an old one without tunnels is %v, want 1", got)
				}
				join(t, h)
				for passed := 0; passed <= 100; passed += 10 {
					got, want := shareOf(t, h, "new:1"), float64(passed)/100
					if got < want-0.05 || got > want+0.05 {
						t.Errorf("the share after %d%% of the time is %v, want %v", passed, got, want)
					}
					time.Sleep(slowStart / 10)
				}
				for _, one := range held {
					hosts.TunnelEnded(one)
				}
			})
		})
	}
}

// joinedAt is since when an upstream gets tunnels in the pool of h.
func joinedAt(t *testing.T, h *Handler, address string) time.Time {
	t.Helper()
	return h.pool.SlowSince(address)
}

// Another site reaches the same upstream in a way that fails, by TLS or by a check.
func TestSlowStartIsAPools(t *testing.T) {
	for name, recoverIn := range map[string]func(site *Handler){
		"failures": func(site *Handler) {
			fail(site, 0, defaultMaxFails)
			time.Sleep(defaultFailDuration)
			synctest.Wait()
		},
		"a check": func(site *Handler) {
			hosts.Report(site.pool.Fixed[0].Verdict, "down", 1, 1)
			hosts.Report(site.pool.Fixed[0].Verdict, "", 1, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			site, other := startingSlowly("a:1", "b:1"), startingSlowly("a:1", "b:1")
			other.TransportRaw = []byte(`{"protocol": "http", "tls": {}}`)
			other.HealthChecks = &HealthChecks{Active: &ActiveHealthChecks{Kind: health.TCP}}
			bubble(t, site, func(t *testing.T) {
				recoverIn(other)
				if joinedAt(t, other, "a:1").IsZero() {
					t.Error("the pool in which it has recovered does not start it slowly")
				}
				if joined := joinedAt(t, site, "a:1"); !joined.IsZero() {
					t.Errorf("a pool in which it has not failed starts it slowly from %v on", joined)
				}
				time.Sleep(slowStart)
			}, other)
		})
	}
}

func TestSlowStartGoesOnAfterAReload(t *testing.T) {
	old := startingSlowly("a:1", "b:1")
	unload := load(t, old)
	bubble(t, startingSlowly("x:1"), func(t *testing.T) {
		fail(old, 0, defaultMaxFails)
		time.Sleep(defaultFailDuration)
		synctest.Wait()
		since := joinedAt(t, old, "a:1")
		time.Sleep(time.Second)
		after := startingSlowly("a:1", "b:1")
		load(t, after)
		evictions.Start(after.loaded)
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
		evictions.Start(after.loaded)
		slow, fast := joinedAt(t, after, "new:1"), joinedAt(t, after, "busy:1")
		if slow.IsZero() {
			t.Error("a newcomer with tunnels has not started slowly")
		}
		if !fast.IsZero() {
			t.Error("what another pool has had with tunnels has started slowly")
		}
		for _, h := range held {
			hosts.TunnelEnded(h)
		}
	}, other)
}

// A pool that is all new is not slow.
func TestNewcomersAloneAreNotHeldBack(t *testing.T) {
	h := startingSlowly("a:1", "b:1")
	bubble(t, h, func(t *testing.T) {
		evictions.Discovered(h.pool.Fixed, nil)
		for range 100 {
			if chooses(t, h) == "" {
				t.Fatal("nothing was chosen")
			}
		}
		time.Sleep(slowStart)
	})
}

func TestNobodyStartsSlowlyByDefault(t *testing.T) {
	h := &Handler{Upstreams: upstreams("a:1", "new:1")}
	bubble(t, h, func(t *testing.T) {
		held := reserve("a:1")
		evictions.Discovered(h.pool.Fixed[1:], nil)
		if got := shareOf(t, h, "new:1"); got != 1 {
			t.Errorf("the share is %v, want 1", got)
		}
		hosts.TunnelEnded(held)
	})
}

package websocketproxy

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// often is an interval of probes, and seldom one after which no test runs any
// more.
const (
	often  = caddy.Duration(5 * time.Millisecond)
	seldom = caddy.Duration(time.Hour)
)

// healthOf is what operators see of an address.
func healthOf(tb testing.TB, address string) upstream.Info {
	tb.Helper()
	i, known := process.table.Info(address)
	if !known {
		tb.Fatalf("%s is not known", address)
	}
	return i
}

func expectHealth(tb testing.TB, address, want string) {
	tb.Helper()
	eventually(tb, address+" is "+want, func() bool { return healthOf(tb, address).Health == want })
}

// running loads h and has its upstreams probed.
func running(tb testing.TB, h *Handler) (unload func()) {
	tb.Helper()
	unload = load(tb, h)
	h.startChecks()
	return unload
}

// logged returns the log of h's check.
func logged(h *Handler) *observer.ObservedLogs {
	core, logs := observer.New(zapcore.InfoLevel)
	h.check.logger = zap.New(core)
	return logs
}

func TestOtherChecksAreOther(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	one := checked(hostA, ActiveHealthChecks{Kind: "tcp"})
	load(t, one)
	for name, test := range map[string]struct {
		change func(h *Handler, a *ActiveHealthChecks)
		same   bool
	}{
		"another kind":     {func(_ *Handler, a *ActiveHealthChecks) { a.Kind = "websocket" }, false},
		"another interval": {func(_ *Handler, a *ActiveHealthChecks) { a.Interval = often }, false},
		"another transport": {func(h *Handler, _ *ActiveHealthChecks) {
			h.TransportRaw = []byte(`{"protocol": "http", "dial_timeout": "1s"}`)
		}, false},
		"the same transport": {func(h *Handler, _ *ActiveHealthChecks) { h.TransportRaw = []byte(` {"protocol":"http" } `) }, true},
		"the default timeout": {func(_ *Handler, a *ActiveHealthChecks) {
			a.Timeout = caddy.Duration(settings.DefaultHealthTimeout)
		}, true},
		"other consequences of that": {func(_ *Handler, a *ActiveHealthChecks) { a.OnUnhealthy = "evict" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			other := checked(hostA, ActiveHealthChecks{Kind: "tcp"})
			test.change(other, other.HealthChecks.Active)
			load(t, other)
			if same := one.pool.Fixed[0].Verdict == other.pool.Fixed[0].Verdict; same != test.same {
				t.Errorf("it is the same check: %v, want %v", same, test.same)
			}
		})
	}
}

func TestLoadingProbesNothing(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	h := checked(testbed.RefusedAddr(t), ActiveHealthChecks{Kind: "tcp", Interval: often})
	unload := load(t, h)
	if len(h.check.Used(h.pool.Fixed[0])) > 0 {
		t.Error("something probes before the configuration is in force")
	}
	unload()
}

// A check that cannot be made fails.
func TestEndpointsThatJoinLaterMayBeOfAnotherKind(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	h := checked("{env.NOWHERE}", ActiveHealthChecks{Kind: "tcp", Port: 80, Interval: seldom})
	running(t, h)
	a, err := settings.ParseAddress("unix//run/chat.sock")
	if err != nil {
		t.Fatal(err)
	}
	e := upstream.NewEndpoint(&upstream.Server{Weight: 1}, a)
	e.Host = process.table.Name(e.Key(), "")
	h.pool.Join(e)
	expectHealth(t, e.Key(), "down")
	if got, want := healthOf(t, e.Key()).HealthError, "unix//run/chat.sock is a unix socket and has no port"; got != want {
		t.Errorf("the error is %q, want %q", got, want)
	}
	h.pool.Leave(e)
	process.table.Unname(e.Host, "", false)
}

func TestUpstreamsThatAreDownGetNoTunnels(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	// Nobody else gets the address of a unix socket that does not listen.
	good, bad := testbed.NewUnixUpstream(t, testbed.Echo), testbed.NewUnixUpstream(t, testbed.Echo)
	goodAddr, badAddr := "unix/"+good.Addr, "unix/"+bad.Addr
	h := &Handler{
		Upstreams:    upstreams(goodAddr, badAddr),
		HealthChecks: &HealthChecks{Active: &ActiveHealthChecks{Kind: "websocket", Interval: often}},
	}
	load(t, h)
	logs := logged(h)
	h.startChecks()
	p := serve(t, h)
	bad.Stop()
	expectHealth(t, badAddr, "down")
	clients := openTunnels(t, p, 4)
	if a, b := tunnelsOf(goodAddr), tunnelsOf(badAddr); a != 4 || b != 0 {
		t.Errorf("the upstreams have %d and %d tunnels, want all at the one that is up", a, b)
	}
	good.Stop()
	expectHealth(t, goodAddr, "down")
	expectRefused(t, p, 503)
	for _, c := range clients {
		c.Echo("still here")
	}
	bad.Start(t)
	expectHealth(t, badAddr, "up")
	clients = append(clients, openTunnels(t, p, 4)...)
	if got := tunnelsOf(badAddr); got != 4 {
		t.Errorf("the upstream has %d tunnels, want 4", got)
	}
	for _, c := range clients {
		c.CloseHandshake(1000)
		c.Close()
	}
	for message, want := range map[string]int{"upstream is unhealthy": 2, "upstream is healthy again": 1} {
		lines := logs.FilterMessage(message).All()
		if len(lines) != want {
			t.Errorf("%d lines say that the %s, want %d: %v", len(lines), message, want, lines)
		}
		for _, line := range lines {
			if fields := line.ContextMap(); fields["address"] == "" || want == 2 && fields["error"] == nil {
				t.Errorf("the line %q has %v", message, fields)
			}
		}
	}
}

func TestRecoveryMovesTunnels(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up, late := testbed.NewUnixUpstream(t, testbed.Echo), testbed.NewUnixUpstream(t, testbed.Echo)
	h := &Handler{Upstreams: upstreams("unix/"+up.Addr, "unix/"+late.Addr)}
	h.LoadBalancing = &LoadBalancing{Rebalance: &Rebalance{Share: 1, Interval: caddy.Duration(time.Second)}}
	h.HealthChecks = &HealthChecks{Active: &ActiveHealthChecks{Kind: "tcp", Interval: often}}
	late.Stop()
	running(t, h)
	expectHealth(t, "unix/"+late.Addr, "down")
	clients := openTunnels(t, serve(t, h), 2)
	late.Start(t)
	eventually(t, "a tunnel is closed", func() bool {
		return len(process.live.Collect((*tunnel.Tunnel).IsOpen)) == 1
	})
	for _, c := range clients {
		c.Close()
	}
}

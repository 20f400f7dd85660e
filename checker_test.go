package websocketproxy

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
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
	i, known := hosts.Info(address)
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

// used are the checks with whose means h's only upstream is probed, newest last.
func used(h *Handler) []*health.Check { return h.check.Used(h.pool.Fixed[0]) }

func TestProbesAreSpreadOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := checked("upstream.test:80", ActiveHealthChecks{Kind: "tcp", Interval: caddy.Duration(time.Minute)})
		unload := load(t, h)
		var probes []time.Time
		var took atomic.Int64
		h.transport.Connect = func(context.Context, string, string) (net.Conn, error) {
			probes = append(probes, time.Now())
			time.Sleep(time.Duration(took.Load()))
			return nil, errors.New("nobody is there")
		}
		began := time.Now()
		h.startChecks()
		took.Store(int64(time.Second))
		time.Sleep(time.Hour)
		unload()
		if !probes[0].Equal(began) {
			t.Errorf("the first probe is after %v, want it at once", probes[0].Sub(began))
		}
		shortest, longest := time.Hour, time.Duration(0)
		for i, at := range probes[1:] {
			pause := at.Sub(probes[i])
			shortest, longest = min(shortest, pause), max(longest, pause)
		}
		if shortest < 54*time.Second || longest > 66*time.Second || longest-shortest < time.Second {
			t.Errorf("the pauses are from %v to %v, want them spread from 54s to 66s", shortest, longest)
		}
	})
}

func TestHandlersShareACheck(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	check := ActiveHealthChecks{Kind: "websocket", Interval: seldom}
	one, two := checked(up.Addr, check), checked(up.Addr, check)
	two.TransportRaw = []byte(` {"protocol":"http" } `)
	two.HealthChecks.Active.OnUnhealthy = "evict"
	two.HealthChecks.Active.Timeout = caddy.Duration(defaultHealthTimeout)
	running(t, one)
	running(t, two)
	expectHealth(t, up.Addr, "up")
	if one.pool.Fixed[0].Verdict != two.pool.Fixed[0].Verdict {
		t.Error("the handlers have checks of their own")
	}
	up.WaitOpen(t, 0)
	if got := up.Accepted(); got != 1 {
		t.Errorf("%d probes, want 1", got)
	}
}

func TestOtherChecksAreOther(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	one := checked(up.Addr, ActiveHealthChecks{Kind: "tcp"})
	load(t, one)
	for name, other := range map[string]*Handler{
		"another kind":     checked(up.Addr, ActiveHealthChecks{Kind: "websocket"}),
		"another interval": checked(up.Addr, ActiveHealthChecks{Kind: "tcp", Interval: often}),
		"another transport": {
			Upstreams: upstreams(up.Addr), HealthChecks: one.HealthChecks,
			TransportRaw: []byte(`{"protocol": "http", "dial_timeout": "1s"}`),
		},
	} {
		t.Run(name, func(t *testing.T) {
			load(t, other)
			if one.pool.Fixed[0].Verdict == other.pool.Fixed[0].Verdict {
				t.Error("it is the same check")
			}
		})
	}
}

func TestAddressIsDownIfOneOfItsChecksFails(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, respond("200 OK", ""))
	good := checked(up.Addr, ActiveHealthChecks{Kind: "tcp", Interval: often})
	bad := checked(up.Addr, ActiveHealthChecks{Kind: "websocket", Interval: often})
	running(t, good)
	expectHealth(t, up.Addr, "up")
	unload := running(t, bad)
	expectHealth(t, up.Addr, "down")
	got := healthOf(t, up.Addr)
	if got.HealthError != "the answer has status 200, not 101" || got.Checked.IsZero() {
		t.Errorf("the admin API tells %+v", got)
	}
	toGood, toBad := serve(t, good), serve(t, bad)
	expectRefused(t, toBad, 503)
	expectRefused(t, toGood, 200) // it is asked, and answers as it does
	unload()
	expectHealth(t, up.Addr, "up")
}

func TestReloadKeepsWhatIsKnown(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.CloseAfterHead)
	check := ActiveHealthChecks{Kind: "websocket", Interval: seldom}
	before := checked(up.Addr, check)
	unload := running(t, before)
	expectHealth(t, up.Addr, "down")

	failing := checked(up.Addr, check)
	load(t, failing)() // a configuration that fails to load
	if got := used(before); len(got) != 1 || got[0] != before.check.Check {
		t.Error("a configuration that was not in force has changed who probes")
	}
	after := checked(up.Addr, check)
	unloadAfter := load(t, after)
	if got, _ := chooseOnce(t, after, clientRequest(0)); got != "" {
		t.Error("the upstream is up while the new configuration is loaded")
	}
	after.startChecks()
	if got := used(after); got[len(got)-1] != after.check.Check {
		t.Error("the new configuration does not probe")
	}
	unload()
	if got := used(after); len(got) != 1 || got[0] != after.check.Check {
		t.Error("what probes is not the new configuration alone")
	}
	if got := healthOf(t, up.Addr).Health; got != "down" || up.Accepted() != 1 {
		t.Errorf("after %d probes and the reload the upstream is %s, want it to be down after one", up.Accepted(), got)
	}
	unloadAfter()
	again := checked(up.Addr, check)
	load(t, again)
	if got := healthOf(t, up.Addr).Health; got != "unchecked" {
		t.Errorf("after a time without the check the upstream is %s", got)
	}
}

func TestUnloadingInterruptsAProbe(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Silent)
	check := ActiveHealthChecks{Kind: "http", Interval: seldom, Timeout: seldom}
	before, after := checked(up.Addr, check), checked(up.Addr, check)
	unload := running(t, before)
	up.WaitAccepted(t, 1)
	unloadAfter := running(t, after)
	unload()
	up.WaitAccepted(t, 2) // with the means of the new configuration
	if got := healthOf(t, up.Addr).Health; got != "unchecked" {
		t.Errorf("the upstream is %s although no probe has come to its end", got)
	}
	unloadAfter()
	up.WaitOpen(t, 0)
}

func TestUnloadingTheNewerConfigurationGoesBackToTheOlder(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	check := ActiveHealthChecks{Kind: "tcp", Interval: often}
	older, newer := checked(up.Addr, check), checked(up.Addr, check)
	running(t, older)
	running(t, newer)()
	if got := used(older); len(got) != 1 || got[0] != older.check.Check {
		t.Error("the older configuration does not probe")
	}
	n := up.Accepted()
	eventually(t, "another probe", func() bool { return up.Accepted() > n+1 })
}

func TestLoadingProbesNothing(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	h := checked(testbed.RefusedAddr(t), ActiveHealthChecks{Kind: "tcp", Interval: often})
	unload := load(t, h)
	if len(used(h)) > 0 {
		t.Error("something probes before the configuration is in force")
	}
	unload()
}

func TestEndpointsThatJoinLaterAreProbedAtOnce(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	h := checked("{env.NOWHERE}", ActiveHealthChecks{Kind: "tcp", Interval: seldom})
	running(t, h)
	a, err := parseAddress(up.Addr)
	if err != nil {
		t.Fatal(err)
	}
	e := upstream.NewEndpoint(&upstream.Server{Weight: 1}, a)
	e.Host = hosts.Name(e.Key(), "")
	h.pool.Join(e)
	expectHealth(t, up.Addr, "up")
	h.pool.Leave(e)
	if got := healthOf(t, up.Addr).Health; got != upstream.Unchecked {
		t.Errorf("it is %s although it has left", got)
	}
	hosts.Unname(e.Host, "", false)
}

// A check that cannot be made fails.
func TestEndpointsThatJoinLaterMayBeOfAnotherKind(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	h := checked("{env.NOWHERE}", ActiveHealthChecks{Kind: "tcp", Port: 80, Interval: seldom})
	running(t, h)
	a, err := parseAddress("unix//run/chat.sock")
	if err != nil {
		t.Fatal(err)
	}
	e := upstream.NewEndpoint(&upstream.Server{Weight: 1}, a)
	e.Host = hosts.Name(e.Key(), "")
	h.pool.Join(e)
	expectHealth(t, e.Key(), "down")
	if got, want := healthOf(t, e.Key()).HealthError, "unix//run/chat.sock is a unix socket and has no port"; got != want {
		t.Errorf("the error is %q, want %q", got, want)
	}
	h.pool.Leave(e)
	hosts.Unname(e.Host, "", false)
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
		return len(liveTunnels.Collect((*tunnel.Tunnel).IsOpen)) == 1
	})
	for _, c := range clients {
		c.Close()
	}
}

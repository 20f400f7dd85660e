package websocketproxy

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// evicting returns a handler for up whose check looks at another address, so
// that tunnels do not notice what that finds out.
func evicting(up, judge *testbed.Upstream, onUnhealthy string, drain *Drain) *Handler {
	h := tellsUpstream(drain, up.Addr)
	h.HealthChecks = &HealthChecks{Active: &ActiveHealthChecks{
		Kind: "tcp", Upstream: "unix/" + judge.Addr, Interval: often, OnUnhealthy: onUnhealthy,
	}}
	return h
}

// quickly ends tunnels at once, with a status of its own.
func quickly() *Drain {
	return &Drain{EvictPeriod: caddy.Duration(10 * time.Millisecond), CloseCode: 4001, CloseReason: "go elsewhere"}
}

// judges returns an upstream that is healthy as long as it is not stopped. It is
// a unix socket, so that nobody else gets its address then.
func judges(t *testing.T) *testbed.Upstream {
	t.Helper()
	return testbed.NewUnixUpstream(t, func(_ testing.TB, c *testbed.Conn) { c.Tolerate(); c.Drain() })
}

// openOne opens a tunnel through h.
func openOne(t *testing.T, h *Handler) (*testProxy, *testbed.Client) {
	t.Helper()
	p := serve(t, h)
	return p, openTunnels(t, p, 1)[0]
}

// expectSentAway checks that the tunnel of c is ended because of its upstream's
// health.
func expectSentAway(t *testing.T, p *testProxy, c *testbed.Client, code uint16) {
	t.Helper()
	c.ExpectClose(code)
	c.WriteFrame(testbed.NewClose(code, ""))
	c.ExpectEOF()
	c.Close()
	expectFields(t, p.closedLine(), map[string]any{"reason": "unhealthy", "closed_by": "proxy", "close_code": code})
}

func TestTunnelsOfAnUnhealthyUpstreamEndIfThatIsWanted(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up, judge := testbed.NewUpstream(t, testbed.Echo), judges(t)
	leaving, staying := evicting(up, judge, "evict", quickly()), evicting(up, judge, "", quickly())
	other := evicting(up, judges(t), "evict", quickly()) // with another check, which passes
	unchecked := tellsUpstream(nil, up.Addr)
	var stay []*testbed.Client
	for _, h := range []*Handler{staying, other} {
		running(t, h)
		_, c := openOne(t, h)
		stay = append(stay, c)
	}
	load(t, unchecked)
	_, c := openOne(t, unchecked)
	stay = append(stay, c)
	running(t, leaving)
	p, c := openOne(t, leaving)

	judge.Stop()
	expectSentAway(t, p, c, 4001)
	for _, c := range stay {
		c.Echo("still here")
		c.CloseHandshake(1000)
		c.Close()
	}
}

func TestTunnelsOfPlaceholdersStay(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up, judge := testbed.NewUpstream(t, testbed.Echo), judges(t)
	h := evicting(up, judge, "evict", quickly())
	h.Upstreams = append(upstreams(fmt.Sprintf("127.0.0.1{env.NOWHERE}:%d", portOf(t, up.Addr))), &Upstream{Dial: up.Addr, Backup: true})
	running(t, h)
	_, c := openOne(t, h)
	judge.Stop()
	expectHealth(t, up.Addr, "down")
	c.Echo("still here")
	c.CloseHandshake(1000)
	c.Close()
}

func TestRecoveryEndsTheEviction(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up, judge := testbed.NewUpstream(t, testbed.Echo), judges(t)
	h := evicting(up, judge, "evict", &Drain{EvictPeriod: caddy.Duration(time.Hour)})
	running(t, h)
	_, c := openOne(t, h)
	leaving := func() int {
		return len(process.live.Collect(func(t *tunnel.Tunnel) bool { return evict.LeaseOf(t).IsUnhealthy() }))
	}
	judge.Stop()
	eventually(t, "the tunnel is to end", func() bool { return leaving() == 1 })
	judge.Start(t)
	eventually(t, "the tunnel may stay", func() bool { return leaving() == 0 })
	c.Echo("still here")
	c.CloseHandshake(1000)
	c.Close()
}

// A tunnel keeps the policy that it was opened with, whatever its check has
// become in a reload.
func TestTunnelsOfEarlierConfigurations(t *testing.T) {
	for name, test := range map[string]struct {
		before, after string
		change        func(*ActiveHealthChecks)
		leaves        bool
	}{
		"the same":               {"evict", "evict", func(*ActiveHealthChecks) {}, true},
		"with another check":     {"evict", "evict", func(a *ActiveHealthChecks) { a.Timeout = caddy.Duration(time.Second) }, true},
		"that evicted":           {"evict", "keep", func(*ActiveHealthChecks) {}, true},
		"that kept":              {"keep", "evict", func(*ActiveHealthChecks) {}, false},
		"that kept, differently": {"keep", "evict", func(a *ActiveHealthChecks) { a.Fails = 2 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { expectNothingHeld(t) })
			up, judge := testbed.NewUpstream(t, testbed.Echo), judges(t)
			before, after := evicting(up, judge, test.before, quickly()), evicting(up, judge, test.after, quickly())
			test.change(after.HealthChecks.Active)
			unload := running(t, before)
			_, c := openOne(t, before)
			running(t, after)
			p := serve(t, after)
			unload()
			c.Echo("still here")
			judge.Stop()
			if test.leaves {
				expectSentAway(t, p, c, 4001)
				return
			}
			expectHealth(t, up.Addr, "down")
			c.Echo("still here")
			c.CloseHandshake(1000)
			c.Close()
		})
	}
}

func TestTunnelsStayWhenTheCheckIsNotWantedAnyMore(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up, judge := testbed.NewUpstream(t, testbed.Echo), judges(t)
	h := evicting(up, judge, "evict", &Drain{EvictPeriod: caddy.Duration(time.Hour)})
	unload := running(t, h)
	_, c := openOne(t, h)
	judge.Stop()
	expectHealth(t, up.Addr, "down")
	load(t, tellsUpstream(nil, up.Addr))
	unload()
	if got := len(process.live.Collect(func(t *tunnel.Tunnel) bool { return evict.LeaseOf(t).IsUnhealthy() })); got > 0 {
		t.Errorf("%d tunnels are to end although nobody checks their upstream", got)
	}
	c.Echo("still here")
	c.CloseHandshake(1000)
	c.Close()
}

// A handshake that was under way when the upstream went down makes a tunnel that
// nobody has found.
func TestTunnelToAnUnhealthyUpstreamThatComesTooLate(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up, judge := testbed.NewUpstream(t, nil), judges(t)
	h := evicting(up, judge, "evict", quickly())
	running(t, h)
	c := testbed.Dial(t, serve(t, h).Addr)
	c.Send(testbed.HandshakeRequest("/", c.Host))
	u := up.Next(t)
	r := u.ReadRequest()
	judge.Stop()
	expectHealth(t, up.Addr, "down")
	u.Accept(r)
	if got := c.Response().StatusCode; got != 101 {
		t.Fatalf("status %d, want 101", got)
	}
	c.ExpectClose(4001)
	c.Close()
	u.Close()
}

// The new check may find out what it does before the old configuration goes.
func TestTunnelsThatOnlyTheNewCheckIsAgainst(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up, good, bad := testbed.NewUpstream(t, testbed.Echo), judges(t), judges(t)
	bad.Stop()
	before, after := evicting(up, good, "evict", quickly()), evicting(up, bad, "evict", quickly())
	unload := running(t, before)
	expectHealth(t, up.Addr, "up")
	_, c := openOne(t, before)
	running(t, after)
	p := serve(t, after)
	expectHealth(t, up.Addr, "down")
	c.Echo("its own check passes")
	unload()
	expectSentAway(t, p, c, 4001)
}

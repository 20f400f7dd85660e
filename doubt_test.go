package websocketproxy

import (
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// doubtfulAddresses are those that are doubtful, in order.
func doubtfulAddresses() (doubtful []string) {
	for _, u := range process.table.List() {
		if u.Doubtful {
			doubtful = append(doubtful, u.Address)
		}
	}
	return doubtful
}

// responds answers every handshake with a status.
func responds(status int) testbed.Script {
	return testbed.Respond("HTTP/1.1 " + strconv.Itoa(status) + " Status\r\nContent-Length: 0\r\n\r\n")
}

// doubting returns a handler that asks others after three failures, and tries nothing twice
// by itself.
func doubting(pause time.Duration, dials ...string) *Handler {
	none := 0
	return &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{Retries: &none},
		HealthChecks:  &HealthChecks{Passive: &PassiveHealthChecks{FailDuration: caddy.Duration(pause)}},
	}
}

// statusesOf has so many clients come, whose tunnels stay open, and returns what they get.
func statusesOf(t *testing.T, p *testProxy, n int) (statuses []int) {
	t.Helper()
	for range n {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", c.Host, "Sec-WebSocket-Protocol: a, b"))
		r := c.Response()
		if r.StatusCode != http.StatusSwitchingProtocols {
			c.Body(r)
		}
		statuses = append(statuses, r.StatusCode)
	}
	return statuses
}

func countOf(statuses []int, status int) (n int) {
	for _, s := range statuses {
		if s == status {
			n++
		}
	}
	return n
}

// One of three fails at once, so that least_conn sends everybody there. The third to come
// gets what others answer, and nobody after that sees a failure.
func TestDoubtIsFoundOutByWitnesses(t *testing.T) {
	for name, bad := range map[string]struct {
		script testbed.Script
		status int // what the first clients get
	}{
		"503":                      {responds(503), 503},
		"closed after the request": {testbed.CloseAfterHead, 502},
		"garbage":                  {testbed.Respond("nonsense\r\n\r\n"), 502},
		"a 101 that is none":       {testbed.Respond("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), 502},
		"all subprotocols":         {testbed.EchoWith("Sec-WebSocket-Protocol: a, b"), 502},
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, bad.script)
			one, two := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
			p := newProxy(t, doubting(time.Minute, up.Addr, one.Addr, two.Addr))
			statuses := statusesOf(t, p, 30)
			if failed := countOf(statuses, bad.status); failed != 2 || countOf(statuses, 101) != 28 {
				t.Errorf("the clients got %v, want two times %d", statuses, bad.status)
			}
			if got := doubtfulAddresses(); !slices.Equal(got, []string{up.Addr}) {
				t.Errorf("doubtful are %v, want %s", got, up.Addr)
			}
			if a, b := tunnelsOf(one.Addr), tunnelsOf(two.Addr); a+b != 28 || a-b > 1 || b-a > 1 {
				t.Errorf("the others have %d and %d tunnels, want 28 together", a, b)
			}
			lines := p.logs.FilterMessage("upstream is doubtful; it gets newcomers only if no other one of its kind can")
			if lines.Len() != 1 {
				t.Errorf("%d lines tell of it, want one", lines.Len())
			}
		})
	}
}

// A request that fails everywhere says nothing about anybody, however often it comes.
func TestDoubtNeedsAnotherAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		scripts []testbed.Script
		status  int
		change  func(h *Handler)
	}{
		"all fail alike":  {[]testbed.Script{responds(503), responds(503), responds(503)}, 503, nil},
		"each in its way": {[]testbed.Script{responds(503), testbed.CloseAfterHead}, 0, nil},
		"nobody to ask":   {[]testbed.Script{responds(503)}, 503, nil},
		"a backup":        {[]testbed.Script{responds(503), testbed.Echo}, 503, func(h *Handler) { h.Upstreams[1].Backup = true }},
		"a full one": {[]testbed.Script{responds(503), testbed.Echo}, 503, func(h *Handler) {
			h.Upstreams[0].Weight, h.Upstreams[1].MaxTunnels = 1000, 1
		}},
		"witnesses off": {[]testbed.Script{responds(503), testbed.Echo}, 503, func(h *Handler) {
			h.Upstreams[0].Weight, h.HealthChecks.Passive.NoWitnesses = 1000, true
		}},
		"another status": {[]testbed.Script{responds(500), testbed.Echo}, 500, func(h *Handler) { h.Upstreams[0].Weight = 1000 }},
		"no status": {[]testbed.Script{responds(503), testbed.Echo}, 503, func(h *Handler) {
			h.Upstreams[0].Weight, h.HealthChecks.Passive.UnhealthyStatus = 1000, []int{-1}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var dials []string
			for _, script := range test.scripts {
				dials = append(dials, testbed.NewUpstream(t, script).Addr)
			}
			h := doubting(time.Minute, dials...)
			if test.change != nil {
				test.change(h)
			}
			p := newProxy(t, h)
			if name == "a full one" {
				defer process.table.GiveBack(occupy(t, h, 1))
			}
			for _, status := range statusesOf(t, p, 8) {
				if status == http.StatusSwitchingProtocols || test.status > 0 && status != test.status {
					t.Errorf("a client got %d, want %d", status, test.status)
				}
			}
			if got := doubtfulAddresses(); len(got) > 0 {
				t.Errorf("doubtful are %v, want none", got)
			}
		})
	}
}

// occupy takes a place at the i-th upstream.
func occupy(t *testing.T, h *Handler, i int) *upstream.Choice {
	t.Helper()
	c, err := h.pool.Candidates(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Reserve(h.pool.Fixed[i])
}

// After fail_duration one that comes tries the upstream, and is not lost if it still fails.
func TestDoubtEndsWhenTheUpstreamAnswers(t *testing.T) {
	var works atomic.Bool
	up := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
		tb.Helper()
		if works.Load() {
			testbed.Echo(tb, c)
		} else {
			responds(503)(tb, c)
		}
	})
	other := testbed.NewUpstream(t, testbed.Echo)
	h := doubting(time.Millisecond, up.Addr, other.Addr)
	h.Upstreams[0].Weight = 1000
	p := newProxy(t, h)
	statusesOf(t, p, 3)
	if got := doubtfulAddresses(); !slices.Equal(got, []string{up.Addr}) {
		t.Fatalf("doubtful are %v, want %s", got, up.Addr)
	}
	before := up.Accepted()
	eventually(t, "it was tried", func() bool {
		if got := statusesOf(t, p, 1); got[0] != 101 {
			t.Errorf("a client got %v while it is tried", got)
		}
		return up.Accepted() > before+2
	})
	works.Store(true)
	eventually(t, "it is trusted", func() bool {
		statusesOf(t, p, 1)
		return len(doubtfulAddresses()) == 0
	})
	if n := p.logs.FilterMessage("upstream is not doubtful any more").Len(); n != 1 {
		t.Errorf("%d lines tell of it, want one", n)
	}
}

// A silent upstream is overtaken while it is waited for. It has to be late, which takes
// five seconds.
func TestLateUpstreamsAreOvertaken(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("takes five seconds; set LONG to run it")
	}
	silent, other := testbed.NewUpstream(t, testbed.Silent), testbed.NewUpstream(t, testbed.Echo)
	h := doubting(time.Minute, silent.Addr, other.Addr)
	h.Upstreams[0].Weight, h.HealthChecks.Passive.MaxFails = 1000, 1
	p := newProxy(t, h)
	if got := statusesOf(t, p, 2); !slices.Equal(got, []int{101, 101}) {
		t.Errorf("the clients got %v", got)
	}
	if got := doubtfulAddresses(); !slices.Equal(got, []string{silent.Addr}) {
		t.Errorf("doubtful are %v, want %s", got, silent.Addr)
	}
	if n := tunnelsOf(silent.Addr); n != 0 {
		t.Errorf("%d are counted at the silent one", n)
	}
	if n := tunnelsOf(other.Addr); n != 2 {
		t.Errorf("%d are counted at the other one, want 2", n)
	}
}

// A silent one is found out by handshake_timeout, too.
func TestDoubtOfTheSilent(t *testing.T) {
	silent, other := testbed.NewUpstream(t, testbed.Silent), testbed.NewUpstream(t, testbed.Echo)
	h := doubting(time.Minute, silent.Addr, other.Addr)
	h.Upstreams[0].Weight = 1000
	h.Timeouts = &Timeouts{Handshake: caddy.Duration(50 * time.Millisecond)}
	p := newProxy(t, h)
	if got := statusesOf(t, p, 5); !slices.Equal(got, []int{504, 504, 101, 101, 101}) {
		t.Errorf("the clients got %v", got)
	}
}

// A tunnel that is reset as soon as it is open has no witness. Here all come from one
// address, as behind another proxy, so each counts.
func TestDoubtOfResetsAtOnce(t *testing.T) {
	bad, good := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
		tb.Helper()
		c.AcceptHandshake()
		c.Reset()
	}), testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
		tb.Helper()
		c.AcceptHandshake()
		c.Close()
	})
	h := doubting(time.Second, bad.Addr, good.Addr)
	h.Upstreams[0].Weight = 1000
	p := newProxy(t, h)
	eventually(t, "it is doubtful", func() bool {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", c.Host))
		c.Response()
		c.Tolerate()
		c.Drain()
		c.Close()
		return slices.Equal(doubtfulAddresses(), []string{bad.Addr})
	})
	eventually(t, "the tunnels are over", func() bool { return tunnelsOf(bad.Addr) == 0 })
	lines := p.logs.FilterMessage("upstream is doubtful; it gets newcomers only if no other one of its kind can").All()
	if len(lines) == 0 || !strings.Contains(lines[0].ContextMap()["why"].(string), "resets") {
		t.Errorf("the lines are %v", lines)
	}
}

// Witnesses count as any handshake does: no place is lost, whatever happens to them.
func TestWitnessesTakePlaces(t *testing.T) {
	bad := testbed.NewUpstream(t, responds(503))
	refusing := testbed.NewUpstream(t, responds(403))
	h := doubting(time.Minute, bad.Addr, refusing.Addr)
	h.Upstreams[0].Weight = 1000
	p := newProxy(t, h)
	if got := statusesOf(t, p, 3); !slices.Equal(got, []int{503, 503, 403}) {
		t.Errorf("the clients got %v, want the last to get what the other one answers", got)
	}
	eventually(t, "all places are free", func() bool { return tunnelsOf(bad.Addr)+tunnelsOf(refusing.Addr) == 0 })
	if got := doubtfulAddresses(); !slices.Equal(got, []string{bad.Addr}) {
		t.Errorf("doubtful are %v, want %s", got, bad.Addr)
	}
}

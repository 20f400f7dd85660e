package websocketproxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// limited returns a handler whose upstreams have limits for handshakes.
func limited(t *testing.T, addr, limits string) *Handler {
	t.Helper()
	return with(t, addr, fmt.Sprintf(`{"timeouts": {"handshake": -1}, "load_balancing": {"queue": {"timeout": "1m"}, %s}}`, limits))
}

// An upstream answers as late as it likes; nobody else comes meanwhile, and then
// tunnels do not count.
func TestHandshakesWaitForEachOther(t *testing.T) {
	answer := make(chan struct{})
	up := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
		tb.Helper()
		<-answer
		testbed.Echo(tb, c)
	})
	p := newProxy(t, limited(t, up.Addr, `"max_handshakes": 1`))
	var clients []*testbed.Client
	for i := range 5 {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", c.Host))
		eventually(t, "it is under way, or waits", func() bool {
			info, _ := process.table.Info(up.Addr)
			return info.Handshakes == 1 && queued(p.handler) == i
		})
		clients = append(clients, c)
	}
	for i, c := range clients {
		answer <- struct{}{}
		expectStatus(t, c.Response(), http.StatusSwitchingProtocols, nil)
		eventually(t, "the next one is let in", func() bool { return queued(p.handler) == max(0, 3-i) })
	}
	for _, c := range clients {
		c.Echo("hello")
		c.CloseHandshake(1000)
	}
}

// A handshake that fails is over, however it does.
func TestHandshakesThatFailAreOver(t *testing.T) {
	for _, limits := range []string{`"max_handshakes": 1`, `"max_handshakes": "auto"`, `"handshake_rate": {"per_second": 1000}`} {
		t.Run(limits, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.Answer("503 Service Unavailable", ""))
			p := newProxy(t, limited(t, up.Addr, limits))
			for range 10 {
				c := testbed.Dial(t, p.Addr)
				c.Send(testbed.HandshakeRequest("/", c.Host))
				if got := c.Response().StatusCode; got != http.StatusServiceUnavailable {
					t.Fatalf("got %d, want the upstream's 503", got)
				}
				c.Close()
			}
			if got := process.table.Held().Handshakes; got != 0 {
				t.Errorf("%d handshakes are under way, want none", got)
			}
		})
	}
}

func TestHandshakeLimitsInJSON(t *testing.T) {
	for in, want := range map[string]string{
		`"auto"`: `"auto"`, `5`: `5`, `-7`: `-1`,
	} {
		var up Upstream
		if err := json.Unmarshal([]byte(`{"dial":"a:1","max_handshakes":`+in+`}`), &up); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(up)
		if err != nil || string(got) != `{"dial":"a:1","max_handshakes":`+want+`}` {
			t.Errorf("%s became %s, %v; want %s", in, got, err, want)
		}
	}
}

// What is sent away from a queue comes again one after another.
func TestRetryAfterGrows(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, with(t, up.Addr, `{"load_balancing": {"max_tunnels": 1, "queue": {"size": 1, "timeout": "1m"}}}`))
	open, waiting := testbed.Dial(t, p.Addr), testbed.Dial(t, p.Addr)
	open.Handshake("/")
	waiting.Send(testbed.HandshakeRequest("/", waiting.Host))
	eventually(t, "it waits", func() bool { return queued(p.handler) == 1 })
	before := time.Duration(0)
	for range 8 {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", c.Host))
		after, err := time.ParseDuration(c.Response().Header.Get("Retry-After") + "s")
		if err != nil || after < before {
			t.Errorf("Retry-After is %v, %v, after %v; want it to grow", after, err, before)
		}
		before = after - time.Second // some of it is at random
		c.Close()
	}
	if before < 6*time.Second {
		t.Errorf("the last one was told %v, want a slot of its own", before+time.Second)
	}
	open.Close()
	waiting.Close()
}

// occupied returns a proxy whose only upstream is full, as is its queue, until the
// returned function is called.
func occupied(t *testing.T, limits string) (*testProxy, func()) {
	t.Helper()
	up := testbed.NewUpstream(t, testbed.Echo)
	h := with(t, up.Addr, `{"load_balancing": {"max_tunnels": 1, "queue": {"size": 1, "timeout": "1m"}, `+limits+`}}`)
	h.Access = &Access{Subprotocols: []string{"chat.v2", "chat.v1"}}
	p := newProxy(t, h)
	open, waiting := testbed.Dial(t, p.Addr), testbed.Dial(t, p.Addr)
	open.Handshake("/")
	waiting.Send(testbed.HandshakeRequest("/", waiting.Host))
	eventually(t, "it waits", func() bool { return queued(p.handler) == 1 })
	return p, func() {
		open.Close()
		waiting.Close()
	}
}

func TestScriptsAreToldToTryAgain(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("waits for seconds; set LONG to run it")
	}
	p, leave := occupied(t, `"retry_close": 10`)
	defer leave()
	began := time.Now()
	c := testbed.Dial(t, p.Addr)
	resp := c.Handshake("/", "Sec-WebSocket-Protocol: chat.v0, chat.v1, chat.v2", "Sec-WebSocket-Extensions: permessage-deflate")
	if got := resp.Header; got.Get("Sec-WebSocket-Protocol") != "chat.v1" || got.Get("Sec-WebSocket-Extensions") != "" {
		t.Errorf("the header of the answer is %v", got)
	}
	expectFields(t, p.line("handshake refused"), map[string]any{"cause": "queue_full", "status": int64(503)})
	one := testbed.Dial(t, p.Addr) // one client may be one of ten
	one.Send(testbed.HandshakeRequest("/", one.Host))
	expectStatus(t, one.Response(), http.StatusServiceUnavailable, nil)
	one.Close()
	if reason := c.ExpectClose(1013); reason != "queue_full" || time.Since(began) < leastHold {
		t.Errorf("closed with %q after %v", reason, time.Since(began))
	}
	c.WriteFrame(testbed.NewClose(1013, ""))
	c.ExpectEOF()
	eventually(t, "nobody is held", func() bool { return process.clients.Held() == 0 })
	if got := process.live.Count(); got != 1 {
		t.Errorf("%d tunnels, want the one that is open", got)
	}
}

// A handler takes none of these from another, but one that takes the place of another
// counts on.
func TestSoManyAreHeldByAHandler(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	start := func(name string) *testProxy {
		h := with(t, up.Addr, `{"load_balancing": {"max_tunnels": 1, "queue": {"timeout": "1ms"}, "retry_close": 10}}`)
		h.Name = name
		load(t, h)
		return serve(t, h)
	}
	status := func(p *testProxy) int {
		c := testbed.Dial(t, p.Addr)
		defer c.Close()
		c.Send(testbed.HandshakeRequest("/", c.Host))
		return c.Response().StatusCode
	}
	p := start("")
	open := testbed.Dial(t, p.Addr)
	open.Handshake("/")
	defer open.Close()
	leave := make([]func(), 10)
	for i := range leave {
		leave[i] = process.clients.Enter(farewells{handler: p.handler.clientGroup()}, netip.Prefix{}, len(leave)).Leave
	}
	heir, other := start(""), start("other")
	for name, tc := range map[string]struct {
		at   *testProxy
		want int
	}{
		"the handler itself":     {p, http.StatusServiceUnavailable},
		"the one after a reload": {heir, http.StatusServiceUnavailable},
		"another one":            {other, http.StatusSwitchingProtocols},
	} {
		if got := status(tc.at); got != tc.want {
			t.Errorf("%s answers %d while as many are held as may be, want %d", name, got, tc.want)
		}
	}
	for _, one := range leave {
		one()
	}
	if got := status(heir); got != http.StatusSwitchingProtocols {
		t.Errorf("the one after a reload answers %d when nobody is held, want 101", got)
	}
}

// Who is held is let go at once by what it does, however long it would be held.
func TestWhoIsHeldMayGo(t *testing.T) {
	p, leave := occupied(t, `"retry_close": 1000`)
	defer leave()
	for name, does := range map[string]func(c *testbed.Client){
		"it goes": func(c *testbed.Client) { c.Close() },
		"it closes": func(c *testbed.Client) {
			c.WriteFrame(testbed.NewClose(1000, ""))
			c.ExpectClose(1013)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			c.Handshake("/")
			does(c)
			eventually(t, "it is not held", func() bool { return process.clients.Held() == 0 })
		})
	}
}

// Who sends much is held all the same: what has begun with that would come back at once.
func TestWhoSendsMuchIsHeld(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("takes eight seconds; set LONG to run it")
	}
	p, leave := occupied(t, `"retry_close": 1000`)
	defer leave()
	for name, frames := range map[string][]testbed.Frame{
		// Together, it is more than is read.
		"messages":  slices.Repeat([]testbed.Frame{testbed.NewFrame(testbed.Binary, string(make([]byte, 8<<10)))}, 8),
		"no frames": {{Fin: true, RSV: 7, Opcode: 15}},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			c := testbed.Dial(t, p.Addr)
			c.Handshake("/")
			for _, frame := range frames {
				c.WriteFrame(frame)
			}
			if c.ExpectClose(1013); time.Since(began) < leastHold {
				t.Errorf("closed after %v", time.Since(began))
			}
			eventually(t, "it is not held", func() bool { return process.clients.Held() == 0 })
		})
	}
}

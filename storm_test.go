package websocketproxy

import (
	"encoding/json"
	"fmt"
	"net/http"
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
		eventually(t, "it waits", func() bool { return queued(p.handler) == i })
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

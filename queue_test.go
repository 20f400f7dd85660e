package websocketproxy

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// queued is how many handshakes wait in h's queue.
func queued(h *Handler) int {
	return h.pool.WaitingNow()
}

// narrow returns a handler whose upstreams take one tunnel each.
func narrow(dials ...string) *Handler {
	return &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{MaxTunnels: 1, Queue: &Queue{Timeout: caddy.Duration(time.Minute)}},
		Timeouts:      &Timeouts{Handshake: -1},
	}
}

func TestQueueOfAThousandIsServedInOrder(t *testing.T) {
	const waiting = 1000
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, narrow(up.Addr))
	open := testbed.Dial(t, p.Addr)
	open.Handshake("/")
	var clients []*testbed.Client
	for i := range waiting {
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", c.Host))
		eventually(t, "it waits", func() bool { return queued(p.handler) == i+1 })
		clients = append(clients, c)
	}
	p.expectRefusal(causeQueueFull, http.StatusServiceUnavailable, func() {
		expectRetryAfter(t, expectRefused(t, p, http.StatusServiceUnavailable))
	})
	for i, c := range clients {
		open.Close()
		if got := c.Response().StatusCode; got != http.StatusSwitchingProtocols {
			t.Fatalf("client %d got status %d, want 101", i, got)
		}
		if got, want := queued(p.handler), waiting-1-i; got != want {
			t.Fatalf("%d wait after client %d was served, want %d", got, i, want)
		}
		open = c
	}
	open.Close()
}

// bubble runs a test of loaded handlers in virtual time.
func bubble(t *testing.T, h *Handler, test func(t *testing.T), others ...*Handler) {
	t.Helper()
	t.Cleanup(func() { expectNothingHeld(t) })
	for _, h := range append(others, h) {
		load(t, h)
	}
	synctest.Test(t, test)
}

func TestWaitingInVainSaysWhy(t *testing.T) {
	c, _ := upstream.NewPool(process.table).Candidates(nil) // has no templates
	for err, want := range map[error]cause{
		upstream.ErrQueueFull:    causeQueueFull,
		upstream.ErrQueueTimeout: causeQueueTimeout,
		upstream.ErrHomeFull:     causeUpstreamFull,
		upstream.ErrNoneLeft:     causeNoUpstream,
	} {
		refused := refuseQueued(t.Context(), c, fmt.Errorf("after a while: %w", err))
		if refused.cause != want || refused.status != http.StatusServiceUnavailable {
			t.Errorf("%v is refused with %+v, want %s", err, refused, want)
		}
		expectRetryAfter(t, refused.header)
	}
}

func TestClientThatGoesLeavesTheQueue(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, narrow(up.Addr))
	open := testbed.Dial(t, p.Addr)
	open.Handshake("/")
	p.expectRefusal(causeClientGone, statusClientClosed, func() {
		gone := testbed.Dial(t, p.Addr)
		gone.Send(testbed.HandshakeRequest("/", gone.Host))
		eventually(t, "it waits", func() bool { return queued(p.handler) == 1 })
		gone.Close()
		eventually(t, "it is gone", func() bool { return queued(p.handler) == 0 })
	})
	open.Close()
	eventually(t, "the place is free", func() bool { return tunnelsOf(up.Addr) == 0 })
}

// The time for an upstream's answer is not that for a place at one.
func TestQueueHasATimeOfItsOwn(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, with(t, up.Addr, `{"timeouts": {"handshake": "50ms"}, "load_balancing": {"max_tunnels": 1, "queue": {"timeout": "1m"}}}`))
	first, second := testbed.Dial(t, p.Addr), testbed.Dial(t, p.Addr)
	first.Handshake("/")
	second.Send(testbed.HandshakeRequest("/", second.Host))
	second.ExpectNothing(200 * time.Millisecond)
	first.CloseHandshake(1000)
	first.Close()
	expectStatus(t, second.Response(), http.StatusSwitchingProtocols, nil)
	second.Echo("hello")
	second.CloseHandshake(1000)
}

package websocketproxy

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/cluster"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// operatorSays sets a state in this process, and takes it back when the test
// has ended. There is no storage in these tests.
func operatorSays(tb testing.TB, address string, s upstream.State) {
	tb.Helper()
	set := func(s upstream.State) {
		s.By, s.At = "test", time.Now()
		if err := process.operators.Set(context.Background(), address, s); err == nil {
			tb.Error("without a storage, something is stored")
		}
	}
	tb.Cleanup(func() { set(upstream.State{State: upstream.Ready}) })
	set(s)
}

func TestTwoEvictionsAtOnceAreHarmless(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	var clients []*testbed.Client
	for range 10 {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/")
		clients = append(clients, c)
	}
	operatorSays(t, up.Addr, upstream.State{State: upstream.Evict, Period: 0.2})
	operatorSays(t, up.Addr, upstream.State{State: upstream.Evict, Period: 0.1})
	expectRefused(t, p, 503)
	for _, c := range clients {
		c.ExpectClose(1012)
		c.WriteFrame(testbed.NewClose(1012, ""))
		c.ExpectEOF()
		c.Close()
	}
	eventually(t, "all tunnels are logged", func() bool {
		return p.logs.FilterMessage("tunnel closed").Len() >= len(clients)
	})
	for _, line := range p.logs.FilterMessage("tunnel closed").All() {
		expectFields(t, line.ContextMap(), map[string]any{"reason": string(tunnel.Evicted)})
	}
	if got := p.logs.FilterMessage("tunnel closed").Len(); got != len(clients) {
		t.Errorf("%d tunnels have %d lines", len(clients), got)
	}
}

func TestWhatIsTakenOutKeepsItsTunnelsAndGetsNoNewcomers(t *testing.T) {
	for _, state := range []string{upstream.Drain, upstream.Maint} {
		t.Run(state, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.Echo)
			p := proxyTo(t, up.Addr)
			c := testbed.Dial(t, p.Addr)
			c.Handshake("/")
			operatorSays(t, up.Addr, upstream.State{State: state})
			expectRefused(t, p, 503)
			c.Echo("still open")
			operatorSays(t, up.Addr, upstream.State{State: upstream.Ready})
			other := testbed.Dial(t, p.Addr)
			other.Handshake("/")
			for _, c := range []*testbed.Client{c, other} {
				c.CloseHandshake(1000)
				c.Close()
			}
		})
	}
}

func TestHandshakesWaitForTheStatesThatAreStored(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	// As if the process had just been started.
	before := process.operators
	t.Cleanup(func() { operate(upstream.Ready, up.Addr) })
	t.Cleanup(func() { process.operators = before })
	process.operators = cluster.New(operatorTable{}, stateLog{}, time.Hour)
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", p.Addr))
	c.ExpectNothing(100 * time.Millisecond)
	_ = before.Set(t.Context(), up.Addr, upstream.State{State: upstream.Drain, At: time.Now()}) // which is found
	awaitNothing()
	if resp := c.Response(); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the handshake is answered with %d, want 503", resp.StatusCode)
	}
}

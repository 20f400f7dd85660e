package integration

import (
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestClientsThatGoDuringTheHandshake has clients leave while an upstream says
// nothing, and while they wait in the queue: it is their doing, whatever the servers of
// HTTP/2 and HTTP/3 give as a cause, and held against no upstream.
func TestClientsThatGoDuringTheHandshake(t *testing.T) {
	t.Parallel()
	silent := testbed.NewUpstream(t, testbed.Silent)
	full := testbed.NewUpstream(t, testbed.Echo)
	c := startStreaming(t, "handle /silent {\n"+proxyTo(silent.Addr, "fail_duration 1m")+"\n}\n"+
		proxyTo(full.Addr, "max_tunnels 1", "queue 100 1m"))
	first := c.dial(t, false)
	first.Handshake("/")
	first.Echo("takes the only place")
	leaves := map[string]func(tb testing.TB, s stream){
		"resets the stream":     func(tb testing.TB, s stream) { s.cancel(tb) },
		"closes the connection": func(tb testing.TB, s stream) { s.disconnect(tb) },
	}
	refusals := 0
	expectGone := func(t *testing.T) {
		t.Helper()
		refusals++
		line := c.log.wait(t, refusals, message("handshake refused"))[refusals-1]
		if line.str("cause") != "client_gone" || line.num("status") != 499 {
			t.Errorf("the line is %v, want the cause client_gone", line)
		}
	}
	for name, connect := range connectors {
		for how, leave := range leaves {
			t.Run(name+" "+how, func(t *testing.T) {
				for range 3 {
					accepted := silent.Accepted()
					s := connect(t, c)(t, webSocket("/silent"))
					silent.WaitAccepted(t, accepted+1)
					leave(t, s)
					expectGone(t)
					silent.WaitOpen(t, 0)
				}
				s := connect(t, c)(t, webSocket("/"))
				eventually(t, "the handshake waits", func() bool { return c.listedUpstreams(t)[full.Addr].Queued == 1 })
				leave(t, s)
				expectGone(t)
			})
		}
	}
	if c.isAvoided(t, silent.Addr) {
		t.Error("clients have made the upstream fail")
	}
	first.CloseHandshake(1000)
}

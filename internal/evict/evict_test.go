package evict

import (
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestWhoseUpstreamIsStillConfigured(t *testing.T) {
	const address = "127.0.0.1:9000"
	tests := map[string]struct {
		template string
		loaded   *site
		orphan   bool
	}{
		"the address":                        {"", plain(address), false},
		"another address":                    {"", plain("127.0.0.1:9001"), true},
		"a template, but the tunnel has not": {"", plain("{env.A}"), true},
		"the template":                       {"{env.A}", plain("{env.A}"), false},
		"another template":                   {"{env.A}", plain("{env.B}"), true},
		"the address, not the template":      {"{env.A}", plain(address), false},
		"nothing":                            {"{env.A}", nil, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inFlock(t, func(f *flock) {
				if tt.loaded != nil {
					f.load(tt.loaded)
				}
				held := f.lease(address)
				defer f.table.TunnelEnded(held.Host)
				if tt.template != "" {
					held.From = upstream.FromTemplate(tt.template)
				}
				if got := held.IsOrphan(); got != tt.orphan {
					t.Errorf("the tunnel has lost its upstream: %t, want %t", got, tt.orphan)
				}
				held.Policy.Period = 0
				if held.IsOrphan() {
					t.Error("the tunnel would be ended although its policy says that it stays")
				}
			})
		})
	}
}

// Whoever has set too short a time may set another one.
func TestAnotherEvictionHasItsOwnPace(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA)
		f.enter(h)
		f.open(100)
		f.stayAway()
		say := func(period time.Duration) {
			f.operate(upstream.Evict, hostA)
			f.evictor.From(hostA, period)
		}
		defer f.operate(upstream.Ready, hostA)
		say(10 * time.Second)
		time.Sleep(time.Second)
		say(time.Hour)
		time.Sleep(time.Minute)
		if n := f.live.Count(); n < 80 || n > 95 {
			t.Errorf("after a minute of an hour %d of 100 tunnels are left, want those of before but for a few", n)
		}
	})
}

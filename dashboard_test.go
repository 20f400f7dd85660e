package websocketproxy

import (
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dashboard"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/told"
)

func TestDashboardHasWordsForEveryCauseAndReason(t *testing.T) {
	for kind, typ := range map[string]string{dashboard.Refused: "cause", dashboard.Ended: "Reason"} {
		all := constantsOf(t, typ)
		if len(all) < 10 {
			t.Fatalf("there are the %ss %q", typ, all)
		}
		for _, why := range all {
			if !dashboard.Knows(kind, why) {
				t.Errorf("the dashboard has no words for the %s %s", typ, why)
			}
		}
	}
}

// Otherwise several handlers are one in the counts.
func TestDashboardNamesHandlersAsTheyAreCounted(t *testing.T) {
	long := strings.Repeat("a", 127)
	for name, want := range map[string]string{"": "default", "chat": "chat", long + "é and more": long} {
		t.Run(want, func(t *testing.T) {
			provision(t, &Handler{Name: name, Upstreams: upstreams("127.0.0.1:1")})
			if pools := process.shown().Pools(); len(pools) != 1 || pools[0].Handler != want {
				t.Errorf("the pools are %+v, want one of %q", pools, want)
			}
		})
	}
}

func TestDashboardHasWeightsAndLimitsThatAreInForce(t *testing.T) {
	for line, weight := range map[string]float64{"50% maxconn:7\n": 1.5, "0% maxconn:7\n": 0} {
		t.Run(line, func(t *testing.T) {
			up, agent := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, says(line))
			all := upstreams(up.Addr)
			all[0].Weight = 3
			h := &Handler{Upstreams: all, HealthChecks: &HealthChecks{Agent: &told.Agent{Port: int(portOf(t, agent.Addr))}}}
			provision(t, h)
			want := dashboard.Member{Upstream: up.Addr, Weight: 3}
			if got := process.shown().Pools()[0].Members; len(got) != 1 || got[0] != want {
				t.Errorf("as it is configured, the members are %+v, want %+v", got, want)
			}
			h.startChecks()
			want.Weight, want.Most = weight, 7
			eventually(t, "what the agent says is shown", func() bool { return process.shown().Pools()[0].Members[0] == want })
		})
	}
}

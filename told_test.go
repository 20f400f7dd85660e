package websocketproxy

import (
	"net/http"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/told"
)

// says is an agent that always says the same.
func says(line string) testbed.Script {
	return func(_ testing.TB, c *testbed.Conn) {
		c.Tolerate()
		c.Send(line)
	}
}

func agentOf(address string) string {
	info, _ := process.table.Info(address)
	return info.Agent
}

func TestAnUpstreamWhoseAgentClosesItGetsNobody(t *testing.T) {
	up, agent := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, says("maint\n"))
	h := &Handler{
		Upstreams: upstreams(up.Addr), HealthChecks: &HealthChecks{Agent: &told.Agent{Port: int(portOf(t, agent.Addr))}},
	}
	p := newProxy(t, h)
	h.startChecks()
	eventually(t, "the agent is heard", func() bool { return agentOf(up.Addr) == "maint" })
	expectRefused(t, p, http.StatusServiceUnavailable)
}

func TestReportsOfLoadAreTakenFrom101s(t *testing.T) {
	for name, test := range map[string]struct {
		field string
		want  float64
	}{
		"a report":        {"Endpoint-Load-Metrics: TEXT cpu_utilization=0.3, named_metrics.rooms=0.4", 0.4},
		"in its own form": {"Endpoint-Load-Metrics-Bin: QhAKBXJvb21zEQAAAAAAAOA/", 0.5},
		"a lie":           {"Endpoint-Load-Metrics: TEXT cpu_utilization=-1, named_metrics.rooms=NaN", 0},
		"nonsense":        {"Endpoint-Load-Metrics: \"", 0},
		"another field":   {"X-Load: 1", 0},
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.EchoWith(test.field))
			p := newProxy(t, &Handler{
				Upstreams:     upstreams(up.Addr),
				LoadBalancing: &LoadBalancing{LoadReport: &told.LoadReport{Metrics: []string{"named_metrics.rooms", "cpu_utilization"}}},
			})
			c := testbed.Dial(t, p.Addr)
			c.Handshake("/")
			if info, _ := process.table.Info(up.Addr); info.Load != test.want {
				t.Errorf("the load is %v, want %v", info.Load, test.want)
			}
			c.CloseHandshake(1000)
		})
	}
}

func TestReportsOfLoadAreTakenFromChecks(t *testing.T) {
	report := "Endpoint-Load-Metrics: JSON {\"applicationUtilization\": 0.7}"
	for kind, script := range map[string]testbed.Script{
		"http":      testbed.Answer("200 OK", "", report),
		"websocket": testbed.EchoWith(report),
	} {
		t.Run(kind, func(t *testing.T) {
			up := testbed.NewUpstream(t, script)
			h := checked(up.Addr, ActiveHealthChecks{Kind: kind})
			h.LoadBalancing = &LoadBalancing{LoadReport: new(told.LoadReport)}
			if err := probed(t, h); err != nil {
				t.Fatal(err)
			}
			if info, _ := process.table.Info(up.Addr); info.Load != 0.7 {
				t.Errorf("the load is %v, want 0.7", info.Load)
			}
		})
	}
}

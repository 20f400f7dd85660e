package dashboard

import (
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestRowSaysWhatAnUpstreamMayHaveAndSaysItself(t *testing.T) {
	const address = "10.0.0.2:80" // of weight 2, and with 10 tunnels at most
	for name, tc := range map[string]struct {
		is   admin.Upstream
		want Row // as far as these fields go
	}{
		"nothing":                  {admin.Upstream{}, Row{Status: Usable}},
		"doubtful":                 {admin.Upstream{Doubtful: true}, Row{Status: Doubtful}},
		"doubtful and full":        {admin.Upstream{Doubtful: true, Tunnels: 10}, Row{Status: Full}},
		"handshakes are limited":   {admin.Upstream{Handshakes: 3, HandshakesLimit: 8}, Row{Status: Usable, Handshakes: 3, HandshakesLimit: 8}},
		"none under way":           {admin.Upstream{HandshakesLimit: 8}, Row{Status: Usable, HandshakesLimit: 8}},
		"handshakes have no limit": {admin.Upstream{Handshakes: 3}, Row{Status: Usable}},
		"it reports its load":      {admin.Upstream{Load: 0.4}, Row{Status: Usable, Load: 0.4}},
		"up":                       {admin.Upstream{Agent: "up"}, Row{Status: Usable, Agent: "up"}},
		"half of its weight":       {admin.Upstream{Agent: "up 50% maxconn:7"}, Row{Status: Usable, Agent: "up 50% maxconn:7"}},
		"no weight":                {admin.Upstream{Agent: "up 0%"}, Row{Status: upstream.Drain, Agent: "up 0%"}},
		"ten times its weight":     {admin.Upstream{Agent: "up 10%"}, Row{Status: Usable, Agent: "up 10%"}},
		"drain":                    {admin.Upstream{Agent: "up drain"}, Row{Status: upstream.Drain, Agent: "up drain"}},
		"maint":                    {admin.Upstream{Agent: "down maint"}, Row{Status: upstream.Maint, Agent: "down maint"}},
		"down":                     {admin.Upstream{Agent: "down", AgentReason: "disk full"}, Row{Status: Down, Agent: "down: disk full"}},
		"fail":                     {admin.Upstream{Agent: "fail"}, Row{Status: Down, Agent: "fail"}},
		"stopped":                  {admin.Upstream{Agent: "stopped 75%"}, Row{Status: Down, Agent: "stopped 75%"}},
		"its agent is silent":      {admin.Upstream{AgentError: "no answer"}, Row{Status: Usable, Agent: "(no answer)"}},
		"its agent is hostile":     {admin.Upstream{AgentReason: "a\x1b[2Jb", Agent: "up"}, Row{Status: Usable, Agent: "up: a\\x1b[2Jb"}},
		"an operator's is stronger": {
			admin.Upstream{State: upstream.Evict, Agent: "up drain"}, Row{Status: upstream.Evict, Agent: "up drain"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := one(0)
			if tc.is.Address = address; tc.is.State == "" {
				tc.is.State = upstream.Ready
			}
			f.upstreams[1] = tc.is
			for _, r := range inUse(t, f).summary(noon).Rows {
				if r.Upstream != address {
					continue
				}
				got := Row{Status: r.Status, Handshakes: r.Handshakes, HandshakesLimit: r.HandshakesLimit, Load: r.Load, Agent: r.Agent}
				if got.Status != tc.want.Status || got.Agent != tc.want.Agent || got.Load != tc.want.Load ||
					got.Handshakes != tc.want.Handshakes || got.HandshakesLimit != tc.want.HandshakesLimit {
					t.Errorf("the row has %+v, want %+v", got, tc.want)
				}
				if r.Weight != 2 || r.Most != 10 {
					t.Errorf("it weighs %v and may have %d, want 2 and 10", r.Weight, r.Most)
				}
			}
		})
	}
}

func TestRowsAreWorstFirstAndNamesOfOneHandlerTogether(t *testing.T) {
	f := one(3)
	f.upstreams = append(f.upstreams,
		admin.Upstream{Address: "10.0.0.3:80", State: upstream.Ready, Health: upstream.Down, HealthError: "status 500"},
		admin.Upstream{Address: "10.0.0.4:80", State: upstream.Removed, Tunnels: 2})
	f.upstreams[1].Tunnels = 10 // as many as it may have
	f.pools = append(f.pools, Pool{Handler: "chat", Members: []Member{{"10.0.0.3:80", 1, 0}, {"10.0.0.1:80", 1, 0}}})
	b := inUse(t, f)
	b.at(noon)
	for range 100 {
		f.attempted("10.0.0.1:80")
	}
	b.refused("dial_failed", 4)
	var got []string
	for _, r := range b.summary(noon.Add(10 * time.Second)).Rows {
		got = append(got, r.Handler+" "+r.Upstream+" "+r.Status)
		if r.Upstream == "10.0.0.1:80" && (r.P50 < 5 || r.P50 > 10 || r.P99 < 5 || r.P99 > 10) {
			t.Errorf("handshakes took %v and %v ms, want 5 to 10", r.P50, r.P99)
		}
		if isTheirs := r.Upstream != "10.0.0.4:80"; isTheirs != (r.Weight >= 1) || !isTheirs && r.Weight != -1 {
			t.Errorf("%s weighs %v, want -1 if no handler has it", r.Upstream, r.Weight)
		}
		if r.Upstream == "10.0.0.2:80" && (r.Failed["dial_failed"] != 4 || r.P50 >= 0) {
			t.Errorf("the row is %+v, want 4 that failed, and no time", r)
		}
	}
	want := "chat 10.0.0.3:80 down, chat 10.0.0.2:80 full,  10.0.0.4:80 removed, chat 10.0.0.1:80 usable"
	if strings.Join(got, ", ") != want {
		t.Errorf("the rows are\n%s, want\n%s", strings.Join(got, ", "), want)
	}
}

// Counts have names of at most so many bytes, as labels of metrics do.
func TestRowsOfLongNamesHaveTheirTunnels(t *testing.T) {
	long := strings.Repeat("a", 200) + ".example:80"
	f := one(0)
	f.pools = []Pool{{Handler: strings.Repeat("h", 200), Members: []Member{{Upstream: long}}}}
	f.upstreams = []admin.Upstream{{Address: long, State: upstream.Drain, Tunnels: 7, Configured: true}}
	f.pairLocked(metrics.Label(f.pools[0].Handler), metrics.Label(long), func(n *PairNumbers) { n.Open = 7 })
	rows := inUse(t, f).summary(noon).Rows
	if len(rows) != 1 || rows[0].Upstream != long || rows[0].Tunnels != 7 || rows[0].State != upstream.Drain {
		t.Errorf("the rows are %+v, want one with 7 tunnels of the drained upstream", rows)
	}
}

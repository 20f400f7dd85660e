package dashboard

import (
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
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

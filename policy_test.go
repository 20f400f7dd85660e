package websocketproxy

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func TestPoliciesAreWhatTheConfigurationSays(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		want   string // what is printed of the policy and the selector
		slots  string // weights, limits and backups
	}{
		"none": {
			`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1", "weight": 3}]}`,
			"upstream.LeastConn{} <nil>", "[1 0 false] [3 0 false]",
		},
		"least_conn": {
			`{"upstreams": [{"dial": "a:1", "weight": 2, "max_tunnels": 5}, {"dial": "b:1", "backup": true}],
				"load_balancing": {"selection_policy": {"policy": "least_conn"}}}`,
			"upstream.LeastConn{} <nil>", "[2 5 false] [1 0 true]",
		},
		"round_robin": {
			`{"upstreams": [{"dial": "a:1", "weight": 2}, {"dial": "b:1"}],
				"load_balancing": {"selection_policy": {"policy": "round_robin"}}}`,
			"upstream.RoundRobin{} <nil>", "[2 0 false] [1 0 false]",
		},
		"weighted_round_robin": {
			`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}],
				"load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [4, 7]}}}`,
			"upstream.RoundRobin{} <nil>", "[4 0 false] [7 0 false]",
		},
		"random_choose": {
			`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1", "weight": 65536}],
				"load_balancing": {"selection_policy": {"policy": "random_choose", "choose": 3}}}`,
			"&upstream.RandomChoose{Choices:3, draws:0x0} <nil>", "[1 0 false] [65536 0 false]",
		},
		"one of another module": {
			`{"upstreams": [{"dial": "a:1", "max_tunnels": 2}, {"dial": "b:1", "backup": true}],
				"load_balancing": {"selection_policy": {"policy": "first"}}}`,
			"<nil> &reverseproxy.FirstSelection{}", "[1 2 false] [1 0 true]",
		},
		"sticky": {
			`{"upstreams": [{"dial": "a:1", "weight": 2}, {"dial": "b:1"}],
				"load_balancing": {"selection_policy": {"policy": "ip_hash"}}}`,
			"upstream.LeastConn{} <nil>", "[2 0 false] [1 0 false]",
		},
		"sticky with a fallback": {
			`{"upstreams": [{"dial": "a:1"}],
				"load_balancing": {"selection_policy": {"policy": "cookie", "fallback": {"policy": "round_robin"}}}}`,
			"upstream.RoundRobin{} <nil>", "[1 0 false]",
		},
		"sticky with a fallback that is only that": {
			`{"upstreams": [{"dial": "a:1"}],
				"load_balancing": {"selection_policy": {"policy": "cookie", "fallback": {"policy": "random"}}}}`,
			"&upstream.RandomChoose{Choices:1, draws:0x0} <nil>", "[1 0 false]",
		},
		"sticky with a fallback that is sticky": {
			`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy":
				{"policy": "header", "field": "X", "fallback": {"policy": "cookie", "fallback": {"policy": "first"}}}}}`,
			"upstream.First{} <nil>", "[1 0 false]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := new(Handler)
			mustParse(t, json.RawMessage(test.config), h)
			provision(t, h)
			var selector reverseproxy.Selector
			if h.guest != nil {
				selector = h.guest.Selector
			}
			if got := fmt.Sprintf("%#v %#v", h.pool.Policy, selector); got != test.want {
				t.Errorf("the policy is %s, want %s", got, test.want)
			}
			var slots []any
			for i, e := range h.pool.Fixed {
				slots = append(slots, []any{e.Server.Weight, e.Server.MaxTunnels, e.Server.Backup})
				seen, _ := e.Server.Known.(*reverseproxy.Upstream)
				if got, want := seen.Dial, h.Upstreams[i].Dial; got != want || !seen.Available() {
					t.Errorf("other modules see %s, want %s, available", got, want)
				}
			}
			if got := fmt.Sprint(slots...); got != test.slots {
				t.Errorf("the upstreams are %s, want %s", got, test.slots)
			}
		})
	}
}

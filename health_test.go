package websocketproxy

import (
	"net/http"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestMistakesInChecksAreToldWithTheirPath(t *testing.T) {
	for check, want := range map[string]string{
		`{}`:                 "kind: is needed",
		`{"kind": "ping"}`:   `kind: "ping" is none of`,
		`{"interval": "1s"}`: "kind: is needed",
		`{"kind": "tcp", "on_unhealthy": "drain"}`:        `on_unhealthy: "drain" is neither`,
		`{"kind": "agent", "port": 9001}`:                 "kind: must not be agent, as agents are asked beside a check; use health_checks.agent",
		`{"kind": "tcp", "uri": "/"}`:                     "uri: has no meaning for a tcp check",
		`{"kind": "tcp", "headers": {"Host": ["a"]}}`:     "headers: has no meaning for a tcp check",
		`{"kind": "tcp", "expect_status": 200}`:           "expect_status: has no meaning for a tcp check",
		`{"kind": "websocket", "method": "GET"}`:          "method: has no meaning for a websocket check",
		`{"kind": "websocket", "body": "x"}`:              "body: has no meaning for a websocket check",
		`{"kind": "websocket", "follow_redirects": true}`: "follow_redirects: has no meaning for a websocket check",
		`{"kind": "websocket", "max_size": -1}`:           "max_size: has no meaning for a websocket check",
		`{"kind": "websocket", "expect_body": "x"}`:       "expect_body: has no meaning for a websocket check",
		`{"kind": "tcp", "interval": -1}`:                 "interval: must not be negative",
		`{"kind": "tcp", "timeout": "-1s"}`:               "timeout: must not be negative",
		`{"kind": "tcp", "interval": 10}`:                 "interval: is shorter than a millisecond",
		`{"kind": "tcp", "timeout": "1us"}`:               "timeout: is shorter than a millisecond",
		`{"kind": "tcp", "passes": -1}`:                   "passes: must not be negative",
		`{"kind": "tcp", "fails": -1}`:                    "fails: must not be negative",
		`{"port": -1}`:                                    "port: -1 is not between",
		`{"port": 65536}`:                                 "port: 65536 is not between",
		`{"kind": "tcp", "port": 80, "upstream": "a:1"}`:  "port: has no effect",
		`{"kind": "tcp", "upstream": "https://a"}`:        "upstream: https://a is a URL",
		`{"kind": "tcp", "upstream": "a"}`:                "upstream: is no address: a has no port",
		`{"kind": "tcp", "upstream": "udp/a:1"}`:          "upstream: is no address: a tunnel needs tcp",
		`{"uri": "https://example.com/"}`:                 "uri: https://example.com/ has more than",
		`{"uri": "%"}`:                                    "uri: is no URI",
		`{"uri": "/", "method": "A B"}`:                   `method: "A B" is no method`,
		`{"uri": "/", "headers": {"a b": ["c"]}}`:         `headers: "a b" is no name`,
		`{"uri": "/", "headers": {"a": ["b\nc"]}}`:        `headers: "b\nc" is no value`,
		`{"uri": "/", "expect_status": 6}`:                "expect_status: 6 is neither",
		`{"uri": "/", "expect_status": 1000}`:             "expect_status: 1000 is neither",
		`{"uri": "/", "expect_status": -1}`:               "expect_status: -1 is neither",
		`{"uri": "/", "expect_body": "("}`:                "expect_body: is no regular expression",
	} {
		t.Run(check, func(t *testing.T) {
			err := provisionJSON(t, `{"upstreams": [{"dial": "localhost:9000"}], "health_checks": {"active": `+check+`}}`)
			testbed.ExpectProblem(t, err, "health_checks.active."+want)
		})
	}
	t.Run("a port of a unix socket", func(t *testing.T) {
		err := provisionJSON(t, `{"upstreams": [{"dial": "localhost:9000"}, {"dial": "unix//run/a.sock"}],
			"health_checks": {"active": {"port": 80}}}`)
		testbed.ExpectProblem(t, err, "health_checks.active.port: has no effect: unix//run/a.sock")
	})
}

func TestUpstreamsThatAreWrongAreToldAsThat(t *testing.T) {
	for _, upstream := range []string{"null", `{"dial": "a"}`, `{"dial": "a://b"}`} {
		err := provisionJSON(t, `{"upstreams": [`+upstream+`], "health_checks": {"active": {"port": 80}}}`)
		testbed.ExpectProblem(t, err, "upstreams[0]")
	}
}

func TestSpellingOfACheckMakesNoDifference(t *testing.T) {
	a := ActiveHealthChecks{URI: "/", Headers: http.Header{"x-check": {"1"}}, OnUnhealthy: "evict"}
	b := ActiveHealthChecks{
		Kind: "http", URI: "/", Headers: http.Header{"X-Check": {"1"}}, Method: "GET", ExpectStatus: 2, Passes: 1, Fails: 1,
	}
	one, err := newActiveCheck(&a, new(transport), nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newActiveCheck(&b, new(transport), nil)
	if err != nil {
		t.Fatal(err)
	}
	if one.Key != other.Key {
		t.Errorf("the checks differ:\n%s\n%s", one.Key, other.Key)
	}
	for range 50 { // as the order of a map is random
		c := ActiveHealthChecks{Kind: "websocket", Headers: http.Header{"x-check": {"1"}, "X-check": {"2"}, "X-CHECK": {"3"}}}
		d := ActiveHealthChecks{Kind: "websocket", URI: "/", Headers: c.Headers}
		if one, err = newActiveCheck(&c, new(transport), nil); err != nil {
			t.Fatal(err)
		}
		if other, err = newActiveCheck(&d, new(transport), nil); err != nil {
			t.Fatal(err)
		}
		if one.Key != other.Key {
			t.Fatalf("the checks differ:\n%s\n%s", one.Key, other.Key)
		}
	}
	if got := canonical([]byte(` {"b": 1, "a" : 2}`)); got != `{"a":2,"b":1}` || canonical([]byte("{")) != "{" {
		t.Errorf("the transport's form is %s", got)
	}
}

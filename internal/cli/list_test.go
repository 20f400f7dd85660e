package cli

import (
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestListTellsHealth(t *testing.T) {
	var out strings.Builder
	list := []nodeUpstream{
		{"", admin.Upstream{Address: "a:1", State: upstream.Ready, Health: upstream.Up}},
		{"", admin.Upstream{Address: "b:1", State: upstream.Drain, Health: upstream.Down, Tunnels: 3}},
		{"", admin.Upstream{Address: "c:1", State: upstream.Ready, Health: upstream.Up, Failing: true, Queued: 7}},
	}
	if err := writeUpstreams(&out, list, false, list[0].Since); err != nil {
		t.Fatal(err)
	}
	want := "ADDRESS  STATE  HEALTH   TUNNELS  QUEUED  SINCE  BY  EXPIRES\n" +
		"a:1      ready  up       0        0       -      -   -\n" +
		"b:1      drain  down     3        0       -      -   -\n" +
		"c:1      ready  failing  0        7       -      -   -\n"
	if got := out.String(); got != want {
		t.Errorf("the list is\n%s\nwant\n%s", got, want)
	}
	later := list[0]
	later.HealthError, later.Checked = "another one", later.Checked.AddDate(0, 0, 1)
	if !sameUpstream(list[0], later) || sameUpstream(list[0], list[1]) {
		t.Error("a probe is a change, or a state is not")
	}
}

func TestListTellsOfHandshakesWhereTheyAreLimited(t *testing.T) {
	var out strings.Builder
	list := []nodeUpstream{
		{"", admin.Upstream{Address: "a:1", State: upstream.Ready, Health: upstream.Up, Handshakes: 3, HandshakesLimit: 8}},
		{"", admin.Upstream{Address: "b:1", State: upstream.Ready, Health: upstream.Up, Handshakes: 2}},
	}
	if err := writeUpstreams(&out, list, false, list[0].Since); err != nil {
		t.Fatal(err)
	}
	want := "ADDRESS  STATE  HEALTH  TUNNELS  QUEUED  SINCE  BY  EXPIRES  HANDSHAKES\n" +
		"a:1      ready  up      0        0       -      -   -        3 of 8\n" +
		"b:1      ready  up      0        0       -      -   -        2\n"
	if got := out.String(); got != want {
		t.Errorf("the list is\n%s\nwant\n%s", got, want)
	}
	later := list[0]
	if later.Handshakes++; !sameUpstream(list[0], later) {
		t.Error("each handshake is a change")
	}
}

func TestListTellsWhatUpstreamsSayOfThemselves(t *testing.T) {
	var out strings.Builder
	list := []nodeUpstream{
		{"", admin.Upstream{Address: "a:1", State: upstream.Ready, Health: upstream.Up, Load: 0.256}},
		{"", admin.Upstream{Address: "b:1", State: upstream.Ready, Health: upstream.Up, Agent: "down 50%", AgentReason: "\x1b[2J"}},
	}
	if err := writeUpstreams(&out, list, false, list[0].Since); err != nil {
		t.Fatal(err)
	}
	want := "ADDRESS  STATE  HEALTH  TUNNELS  QUEUED  SINCE  BY  EXPIRES  LOAD  AGENT\n" +
		"a:1      ready  up      0        0       -      -   -        26%   -\n" +
		"b:1      ready  up      0        0       -      -   -        -     down 50%: \\x1b[2J\n"
	if got := out.String(); got != want {
		t.Errorf("the list is\n%s\nwant\n%s", got, want)
	}
	later := list[0]
	if later.Load++; !sameUpstream(list[0], later) {
		t.Error("each report is a change")
	}
}

package websocketproxy

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/label"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// labelled is a handler that labels tunnels by the request's query.
func labelled(up *testbed.Upstream, names ...string) *Handler {
	h := &Handler{Upstreams: upstreams(up.Addr)}
	for _, name := range names {
		h.Labels = append(h.Labels, &label.Label{Name: name, Value: "{http.request.uri.query." + name + "}"})
	}
	return h
}

// openPath opens a tunnel with a path.
func openPath(t *testing.T, p *testProxy, path string) *testbed.Client {
	t.Helper()
	n := process.live.Count()
	c := testbed.Dial(t, p.Addr)
	c.Handshake(path)
	eventually(t, "there is a new tunnel", func() bool { return process.live.Count() > n })
	return c
}

// TestHostileLabelsAreHarmless has the values of clients in each place that shows them.
func TestHostileLabelsAreHarmless(t *testing.T) {
	api := startAdmin(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	for name, test := range map[string]struct{ value, want string }{
		"plain":             {"alice", "alice"},
		"terminal escapes":  {"\x1b[2J\x1b]0;x\x07", `\x1b[2J\x1b]0;x\x07`},
		"HTML":              {`<script>alert(1)</script>"'&`, `<script>alert(1)</script>"'&`},
		"NUL":               {"a\x00b", `a\x00b`},
		"invalid UTF-8":     {"a\xffb\xc3", `a\xffb\xc3`},
		"right-to-left":     {"a\u202eb\u200f", `a\u202eb\u200f`},
		"C1":                {"a\u009bm", `a\u009bm`},
		"lines":             {"a\r\nlevel=error", `a\x0d\x0alevel=error`},
		"long":              {strings.Repeat("é", 50<<10), strings.Repeat("é", tunnel.MaxLabelValue/2-2) + "…"},
		"long with escapes": {strings.Repeat("\x00", 1000), strings.Repeat(`\x00`, tunnel.MaxLabelValue/4-1) + "…"},
		"a placeholder":     {"{env.HOME}", "{env.HOME}"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, labelled(up, "user", "room"))
			// As a rewrite has it: what a server takes as the request's line is shorter.
			p.target = "/?user=" + url.QueryEscape(test.value)
			c := openPath(t, p, "/")
			held := process.live.Collect(nil)[0]
			if got := held.Labels.Get("user"); got != test.want || len(got) > tunnel.MaxLabelValue || !utf8.ValidString(got) {
				t.Errorf("the label is %q, want %q", got, test.want)
			}
			_, text := api.do("GET", "tunnels", "")
			if !printable.Is(strings.ReplaceAll(text, "\n", "")) {
				t.Errorf("the list is not printable: %q", text)
			}
			for _, value := range []string{test.value, test.want, "x" + test.want} {
				if len(value) > 10<<10 {
					continue // for which the command is answered by net/http
				}
				query := url.Values{"label": {"user=" + value}}
				if _, whole := tunnel.LabelOf("user", value); !whole {
					get[struct{ Error string }](api, "GET", "tunnels?"+query.Encode(), "", http.StatusBadRequest)
					continue
				}
				if got := api.list(query); (got.Total == 1) != (value == test.value) {
					t.Errorf("%d tunnels have the label %q, of %q", got.Total, value, test.value)
				}
			}
			c.WriteFrame(testbed.NewClose(1000, ""))
			c.Close()
			labels, _ := p.closedLine()["labels"].(map[string]any)
			if len(labels) != 1 || labels["user"] != test.want {
				t.Errorf("in the log the labels are %q, want only the user %q", labels, test.want)
			}
		})
	}
}

func TestATunnelWithoutLabelsHasNone(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	h := labelled(up, "room")
	h.Labels = append(h.Labels, &label.Label{Name: "user", Value: "{http.auth.user.id}"}, &label.Label{Name: "odd", Value: "{nothing.of.this.name}"})
	p := newProxy(t, h)
	c := openPath(t, p, "/")
	if labels := process.live.Collect(nil)[0].Labels; labels != nil {
		t.Errorf("it has the labels %v", slices.Collect(labels.All()))
	}
	c.Close()
	if line := p.closedLine(); line["labels"] != nil {
		t.Errorf("the line has the labels %v", line["labels"])
	}
}

func TestTunnelsAreListedGroupedAndClosedByLabel(t *testing.T) {
	api := startAdmin(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, labelled(up, "user", "room"))
	open := func(path string) *testbed.Client { return openPath(t, p, path) }
	alice := []*testbed.Client{open("/?user=alice&room=1"), open("/?user=alice&room=2")}
	others := []*testbed.Client{open("/?user=bob&room=2"), open("/")}

	for query, want := range map[string]int{
		"label=user=alice": 2, "label=user=alice&label=room=2": 1, "label=room=2": 2, "label=user=eve": 0, "label=sex=f": 0,
		"label=user=alice&upstream=other:1": 0,
	} {
		values, _ := url.ParseQuery(query)
		if got := api.list(values); got.Total != want {
			t.Errorf("%s gives %d tunnels, want %d", query, got.Total, want)
		}
	}
	for query, want := range map[string]string{
		"label=user":                    `label is a name and a value, such as user=alice, not "user"`,
		"label=user=a&label=user=b":     "label user is given twice; a tunnel has one value of it",
		"sort=tunnels":                  "sort is for groups; say which by group",
		"group=room":                    `group is client, upstream or a label such as label.user, not "room"`,
		"group=label.":                  `group is client, upstream or a label such as label.user, not "label."`,
		"group=client&sort=age":         `sort is tunnels, bytes_rate or messages_rate, not "age"`,
		"group=client&limit=0":          `limit is a number of groups, not "0"`,
		"group=client&limit=1&after=ab": "groups are not paged, so there is no after; raise the limit",
	} {
		if got := get[struct{ Error string }](api, "GET", "tunnels?"+query, "", http.StatusBadRequest); got.Error != want {
			t.Errorf("%s is refused with %q, want %q", query, got.Error, want)
		}
	}
	for query, want := range map[string]map[string]int{
		"group=label.room":                    {"2": 2, "1": 1, "": 1},
		"group=label.room&limit=1":            {"2": 2},
		"group=label.room&label=user=alice":   {"1": 1, "2": 1},
		"group=client&sort=messages_rate":     {"127.0.0.1": 4},
		"group=upstream&sort=bytes_rate":      {up.Addr: 4},
		"group=label.nothing":                 {"": 4},
		"group=label.room&label=user=nobody":  {},
		"group=label.user&handler=of no name": {},
	} {
		list := get[admin.GroupList](api, "GET", "tunnels?"+strings.ReplaceAll(query, " ", "+"), "", http.StatusOK)
		got := make(map[string]int)
		for _, g := range list.Groups {
			got[g.Key] = g.Tunnels
		}
		if !maps.Equal(got, want) || list.Total < len(got) {
			t.Errorf("%s gives %+v, want %v", query, list, want)
		}
	}

	// A ban.
	if got := get[admin.CloseAnswer](api, "POST", "tunnels/close",
		`{"labels": {"user": "alice"}, "code": 1008, "reason": "banned"}`, http.StatusAccepted); got.Closing != 2 {
		t.Errorf("%d tunnels are closed, want 2", got.Closing)
	}
	for _, c := range alice {
		if reason := c.ExpectClose(1008); reason != "banned" {
			t.Errorf("the Close says %q", reason)
		}
	}
	others[0].Echo("still there")
	if text := get[struct{ Error string }](api, "POST", "tunnels/close", `{"labels": {"user": ""}}`, http.StatusBadRequest); !strings.HasPrefix(text.Error, "label user has no value") {
		t.Errorf("a label without a value is refused with %q", text.Error)
	}
}

func TestTheBusiestGroupIsFirst(t *testing.T) {
	api := startAdmin(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, labelled(up, "room"))
	calm, busy := openPath(t, p, "/?room=calm"), openPath(t, p, "/?room=busy")
	calm.Echo("x")
	for range 20 {
		busy.Echo(strings.Repeat("x", 1000))
	}
	var list admin.GroupList
	eventually(t, "the rates are known", func() bool {
		list = get[admin.GroupList](api, "GET", "tunnels?group=label.room&sort=bytes_rate", "", http.StatusOK)
		return list.Groups[0].BytesRate > 0 && list.Groups[1].BytesRate > 0
	})
	first, second := list.Groups[0], list.Groups[1]
	if first.Key != "busy" || first.BytesRate <= 100*second.BytesRate || first.MessagesRate <= second.MessagesRate {
		t.Errorf("the groups are %+v", list.Groups)
	}
}

func TestLabelsThatAreMistakesInJSON(t *testing.T) {
	for config, want := range map[string]string{
		`"labels": [null]`:                          "labels[0]: is null",
		`"labels": [{"name": "a-b", "value": "x"}]`: `labels[0]: "a-b" is no name for a label`,
		`"labels": [{"name": "a", "value": "x"}, {"name": "a", "value": "y"}]`: "labels[1]: a is given twice",
		`"labels": [{"name": "a"}]`: "labels[0]: a has no value",
	} {
		if err := provisionJSON(t, `{"upstreams": [{"dial": "localhost:9000"}], `+config+`}`); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %s", config, err, want)
		}
	}
}

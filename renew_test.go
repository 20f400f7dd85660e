package websocketproxy

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/label"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/renew"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// renewer is a websocket_renew that goes by the request's query.
func renewer(t *testing.T, longest time.Duration) func(query url.Values) (renewed any) {
	t.Helper()
	h := renew.New(process.live)
	h.Labels, h.At = []*label.Label{{Name: "user", Value: "{http.request.uri.query.user}"}}, "{http.request.uri.query.exp}"
	h.Max = caddy.Duration(longest)
	ctx, cancel := newContext()
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return func(query url.Values) (renewed any) {
		w, passed := httptest.NewRecorder(), false
		r := httptest.NewRequest(http.MethodPost, "/?"+query.Encode(), nil)
		repl := caddy.NewReplacer()
		r = caddyhttp.PrepareRequest(r, repl, w, new(caddyhttp.Server))
		err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
			passed = true
			return nil
		}))
		if err != nil || !passed {
			t.Errorf("the request has not gone on: %v", err)
		}
		renewed, _ = repl.Get("http.websocket_renew.tunnels")
		return renewed
	}
}

// expireIn returns in how many minutes the tunnels of a user expire.
func (a *testAdmin) expireIn(user string) (minutes []float64) {
	for _, held := range a.list(nil).Tunnels {
		if held.Labels["user"] == user {
			minutes = append(minutes, time.Until(held.Expires).Round(time.Minute).Minutes())
		}
	}
	return minutes
}

func TestRequestsRenewTunnels(t *testing.T) {
	api := startAdmin(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	h := expires(up, expiry.Rule{Optional: true})
	h.Labels = labelled(up, "user").Labels
	p := newProxy(t, h)
	for _, user := range []string{"alice&exp=10m", "alice&exp=20m", "bob&exp=10m", "carol"} {
		openPath(t, p, "/?user="+user)
	}
	long := strings.Repeat("a", 200)
	openPath(t, p, "/?exp=10m&user="+long+"1")
	ask := renewer(t, time.Hour)
	for _, step := range []struct {
		user, exp string
		want      int
	}{
		{"alice", "15m", 1},
		{"alice", "15m", 0},   // but for a moment; see below
		{"alice", "-15m", 0},  // nobody expires earlier
		{"alice", "", 0},      // no time
		{"alice", "never", 0}, // no time, with a line
		{"", "30m", 0},        // nobody
		{"eve", "30m", 0},
		{"carol", "30m", 0},    // who does not expire
		{long + "2", "30m", 0}, // who looks the same, but is another one
		{"alice\x00", "30m", 0},
		{"alice", "5h", 2}, // limited by max
	} {
		exp := step.exp
		if step.want == 0 && exp == "15m" {
			exp = "14m"
		}
		if got := ask(url.Values{"user": {step.user}, "exp": {exp}}); got != step.want {
			t.Errorf("%.10q renews %v tunnels until %s, want %d", step.user, got, exp, step.want)
		}
	}
	for user, want := range map[string][]float64{"alice": {60, 60}, "bob": {10}, long[:tunnel.MaxLabelValue-len("…")] + "…": {10}} {
		got := api.expireIn(user)
		if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("the tunnels of %.10s expire in %v minutes, want %v", user, got, want)
		}
	}

	// An operator is not limited.
	for body, want := range map[string]int{
		`{"labels": {"user": "bob"}, "expires": "2h"}`:       1,
		`{"labels": {"user": "carol"}, "expires": "2h"}`:     0,
		`{"labels": {"user": "eve"}, "expires": 4000000000}`: -1,
	} {
		if want < 0 {
			get[struct{ Error string }](api, "POST", "tunnels/renew", body, http.StatusBadRequest)
			continue
		}
		if got := get[admin.RenewAnswer](api, "POST", "tunnels/renew", body, http.StatusOK); got.Renewed != want {
			t.Errorf("%s renews %d tunnels, want %d", body, got.Renewed, want)
		}
	}
	if got := api.expireIn("bob"); len(got) != 1 || got[0] != 120 {
		t.Errorf("bob's tunnel expires in %v minutes, want 120", got)
	}
	for body, want := range map[string]string{
		`{"labels": {"user": "` + long + `2"}, "expires": "1h"}`: "label user has a value of 201 bytes",
		`{"expires": "1h"}`:                                   "say which tunnels",
		`{"all": true}`:                                       "expires: is empty",
		`{"all": true, "expires": "soon"}`:                    "expires: is neither",
		`{"all": true, "upstream": "a:1", "expires": "1h"}`:   "say which tunnels",
		`{"all": true, "expires": {"at": 1}}`:                 "expires: is neither",
		`{"labels": {"user": ""}, "expires": "1h"}`:           "label user has no value",
		`{"labels": {"user": "a"}, "expires": "1h", "x": ""}`: "the body is not",
	} {
		if got := get[struct{ Error string }](api, "POST", "tunnels/renew", body, http.StatusBadRequest); !strings.HasPrefix(got.Error, want) {
			t.Errorf("%s is refused with %q, want %q", body, got.Error, want)
		}
	}
}

func TestCaddyfileOfWebsocketRenew(t *testing.T) {
	for block, want := range map[string]string{
		"label user {http.auth.user.id}\nexpires {http.auth.user.exp}": "",
		"label user a\nlabel sid b\nexpires 1h\nmax 12h":               "",
		"label user a\nexpires 1h\nmax off":                            "",
		"":                                                             "labels: there is none",
		"expires 1h":                                                   "labels: there is none",
		"label user a":                                                 "say until when by expires",
		"label user\nexpires 1h":                                       "label needs a name and a value, such as user {http.auth.user.id}, at Testfile:2",
		"label user a b\nexpires 1h":                                   "label needs a name and a value",
		"label user a\nlabel user b\nexpires 1h":                       "labels[1]: user is given twice, at Testfile:3",
		"label u-r a\nexpires 1h":                                      "is no name for a label",
		"label user a\nexpires":                                        "expires needs one time",
		"label user a\nexpires soon":                                   `at: "soon" is neither Unix seconds`,
		"label user a\nexpires 1h\nexpires 2h":                         "expires is given twice, at Testfile:4",
		"label user a\nexpires 1h\nmax":                                "max needs one duration",
		"label user a\nexpires 1h\nmax -1h":                            `max is a duration such as 24h, or off, not "-1h"`,
		"label user a\nexpires 1h\nleeway 5s":                          "unrecognized option leeway; there are label, expires and max, at Testfile:4",
	} {
		_, err := renew.ParseCaddyfile(httpcaddyfile.Helper{
			Dispenser: caddyfile.NewTestDispenser("websocket_renew {\n" + block + "\n}"),
		})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %s", block, err, want)
		}
	}
}

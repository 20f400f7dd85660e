package websocketproxy

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestAdminRefusesBadRequests(t *testing.T) {
	api := startAdmin(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	c := openTunnels(t, p, 1)[0]
	c.Echo("hello")
	one := "tunnels/" + api.list(nil).ids()[0]
	set := func(rest string) string { return fmt.Sprintf(`{"address": %q, %s}`, up.Addr, rest) }
	for _, bad := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "", "", 404, "/websocket_proxy/upstreams"},
		{"GET", "tunnel", "", 404, "/websocket_proxy/tunnels"},
		{"GET", "tunnels/none", "", 404, `no tunnel \"none\"`},
		{"GET", "tunnels?upstrem=x", "", 400, `not \"upstrem\"`},
		{"GET", "tunnels?upstream=x&upstream=y", "", 400, "2 times"},
		{"GET", "tunnels?client=%zz", "", 400, "reading the parameters"},
		{"GET", "tunnels?client=10.0.0.0/33", "", 400, "CIDR"},
		{"GET", "tunnels?client=localhost", "", 400, "IP address"},
		{"GET", "tunnels?limit=0", "", 400, "limit"},
		{"GET", "tunnels?limit=many", "", 400, "limit"},
		{"GET", one + "?code=1000", "", 400, "no parameters"},
		{"GET", "upstreams?state=drain", "", 400, "no parameters"},
		{"DELETE", "tunnels/none", "", 404, "may have ended"},
		{"DELETE", one + "?code=1005", "", 400, "1005 is not allowed"},
		{"DELETE", one + "?code=1016", "", 400, "1016 is not allowed"},
		{"DELETE", one + "?code=0", "", 400, "0 is not allowed"},
		{"DELETE", one + "?code=-1", "", 400, "-1 is not allowed"},
		{"DELETE", one + "?code=66536", "", 400, "66536 is not allowed"},
		{"DELETE", one + "?code=bye", "", 400, "code is a number"},
		{"DELETE", one + "?reason=" + strings.Repeat("x", 124), "", 400, "124 bytes"},
		{"DELETE", one + "?reason=%ff", "", 400, "UTF-8"},
		{"DELETE", one + "?all=true", "", 400, `not \"all\"`},
		{"POST", "tunnels/close", "", 400, "EOF"},
		{"POST", "tunnels/close", "{}", 400, "which tunnels"},
		{"POST", "tunnels/close", "null", 400, "which tunnels"},
		{"POST", "tunnels/close", `[]`, 400, "JSON object"},
		{"POST", "tunnels/close", `{"all": true} {}`, 400, "follows"},
		{"POST", "tunnels/close", `{"all": true, "handler": "x"}`, 400, "which tunnels"},
		{"POST", "tunnels/close", `{"al": true}`, 400, `\"al\"`},
		{"POST", "tunnels/close", `{"all": true, "code": 0}`, 400, "0 is not allowed"},
		{"POST", "tunnels/close", `{"all": true, "code": 1006}`, 400, "1006 is not allowed"},
		{"POST", "tunnels/close", `{"all": true, "period": -1}`, 400, "period"},
		{"POST", "tunnels/close", `{"all": true, "period": 86401}`, 400, "86400"},
		{"POST", "tunnels/close", `{"client": "x"}`, 400, "IP address"},
		{"POST", "tunnels/close", `{"handler": "` + strings.Repeat("x", maxAdminBody) + `"}`, 400, "EOF"},
		{"POST", "upstreams/state", `{"address": "none:1", "state": "drain"}`, 404, `no upstream \"none:1\"`},
		{"POST", "upstreams/state", set(`"state": "maint"`), 400, "ready, drain or evict"},
		{"POST", "upstreams/state", set(`"state": "drain", "period": 1`), 400, "evict"},
		{"POST", "upstreams/state", set(`"state": "evict", "period": -1`), 400, "period"},
		{"POST", "upstreams/state", set(`"state": "evict", "expires_in": 0`), 400, "more than 0"},
		{"POST", "upstreams/state", set(`"state": "evict", "expires_in": 1e300`), 400, "expires_in"},
		{"POST", "upstreams/state", set(`"state": "ready", "expires_in": 5`), 400, "does not expire"},
		{"POST", "upstreams/state", set(`"state": "drain", "by": "a\tb"`), 400, "by is a name"},
		{"POST", "upstreams/state", set(`"status": "drain"`), 400, `\"status\"`},
	} {
		resp, answer := api.do(bad.method, bad.path, bad.body)
		if resp.StatusCode != bad.status || !strings.Contains(answer, bad.says) {
			t.Errorf("%s %s %.60s: %d %s, want %d with %s",
				bad.method, bad.path, bad.body, resp.StatusCode, answer, bad.status, bad.says)
		}
	}
	if state := hosts.stateOf(up.Addr); state.State != "" {
		t.Errorf("the upstream's state is %+v, want none", state)
	}
	c.Echo("untouched")
}

func TestAdminAllowsMethods(t *testing.T) {
	api := startAdmin(t)
	for path, allowed := range map[string]string{
		"upstreams":       "GET",
		"upstreams/state": "POST",
		"tunnels":         "GET",
		"tunnels/x":       "DELETE, GET",
		"tunnels/close":   "POST",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "DRAIN"} {
			resp, answer := api.do(method, path, "")
			asGet := strings.Replace(method, "HEAD", "GET", 1)
			if slices.Contains(strings.Split(allowed, ", "), asGet) {
				if resp.StatusCode == http.StatusMethodNotAllowed {
					t.Errorf("%s %s is not allowed", method, path)
				}
				continue
			}
			if got := resp.Header.Get("Allow"); resp.StatusCode != http.StatusMethodNotAllowed || got != allowed {
				t.Errorf("%s %s: status %d, Allow: %s; want 405 and %s", method, path, resp.StatusCode, got, allowed)
			}
			if method != "HEAD" && !strings.Contains(answer, `"error":`) {
				t.Errorf("%s %s: the answer %q has no cause", method, path, answer)
			}
		}
	}
}

func TestDocumentationHasTheAdminAPI(t *testing.T) {
	const file = "docs/operations.md"
	documentation := readFile(t, file)
	for _, route := range adminRoutes(operated{}) {
		for method := range route.Methods {
			request := method + " " + strings.TrimPrefix(route.Pattern, "/websocket_proxy/")
			if !strings.Contains(documentation, "| `"+request+"` |") {
				t.Errorf("%s does not have %s", file, request)
			}
		}
	}
	for _, v := range []any{
		upstreamInfo{}, stateRequest{}, stateAnswer{}, tunnelInfo{}, tunnelFilter{}, closeRequest{}, closeAnswer{},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(v)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name != "" && !strings.Contains(documentation, "`"+name+"`") {
				t.Errorf("%s does not have the field %s of %T", file, name, v)
			}
		}
	}
}

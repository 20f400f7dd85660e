package websocketproxy

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
)

// TestAdminRefusesAsCaddyDoes checks what becomes of refusals outside.
func TestAdminRefusesAsCaddyDoes(t *testing.T) {
	api := startAdmin(t)
	for _, c := range []struct {
		method, path, says string
		status             int
	}{
		{"GET", "tunnel", `{"error":"there is /websocket_proxy/upstreams and /websocket_proxy/tunnels"}`, http.StatusNotFound},
		{"GET", "tunnels/none", `{"error":"there is no tunnel \"none\"; it may have ended"}`, http.StatusNotFound},
		{"GET", "tunnels?limit=0", `{"error":"limit is a number of tunnels, not \"0\""}`, http.StatusBadRequest},
		{"PUT", "tunnels", `{"error":"the method is GET here, not PUT"}`, http.StatusMethodNotAllowed},
	} {
		resp, answer := api.do(c.method, c.path, "")
		if resp.StatusCode != c.status || strings.TrimSpace(answer) != c.says {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, resp.StatusCode, answer, c.status, c.says)
		}
	}
}

func TestDocumentationHasTheAdminAPI(t *testing.T) {
	const file = "docs/operations.md"
	documentation := readFile(t, file)
	for _, route := range admin.Routes(&admin.Process{Live: process.live, Table: process.table, States: process.operators}) {
		for method := range route.Methods {
			request := method + " " + strings.TrimPrefix(route.Pattern, "/websocket_proxy/")
			if !strings.Contains(documentation, "| `"+request+"` |") {
				t.Errorf("%s does not have %s", file, request)
			}
		}
	}
	for _, v := range []any{
		admin.Upstream{}, admin.StateRequest{}, admin.StateAnswer{}, admin.Tunnel{}, admin.Filter{}, admin.Group{}, admin.GroupList{}, admin.CloseRequest{}, admin.CloseAnswer{}, admin.RenewRequest{}, admin.RenewAnswer{},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(v)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name != "" && !strings.Contains(documentation, "`"+name+"`") {
				t.Errorf("%s does not have the field %s of %T", file, name, v)
			}
		}
	}
}

package guest

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func TestPoolPolicySelects(t *testing.T) {
	pool := reverseproxy.UpstreamPool{NewUpstream("x:1"), NewUpstream("b:1"), NewUpstream("c:1")}
	order := []string{"a:1", "b:1", "c:1"} // a is none of reverse_proxy's
	var problem error
	p := NewPoolPolicy(func(_ *http.Request, name string, _ <-chan struct{}, may func(string) bool) (string, http.Header, error) {
		if name != "chat" {
			t.Errorf("asked about %q", name)
		}
		i := slices.IndexFunc(order, may)
		if i < 0 {
			return "", nil, problem
		}
		return order[i], http.Header{"Set-Cookie": {"lb=" + order[i] + "; Path=/"}}, problem
	})
	p.Pool, p.logger = "chat", slog.New(slog.DiscardHandler)
	r, w := httptest.NewRequest(http.MethodGet, "/", http.NoBody), httptest.NewRecorder()
	w.Header().Set("Set-Cookie", "other=1")
	for _, test := range []struct {
		order  []string
		err    error
		w      http.ResponseWriter
		want   *reverseproxy.Upstream
		cookie string
	}{
		{order, nil, w, pool[1], "other=1, lb=b:1; Path=/"},
		{[]string{"c:1"}, nil, w, pool[2], "other=1, lb=c:1; Path=/"}, // tried again
		{[]string{"b:1"}, nil, nil, pool[1], "other=1, lb=c:1; Path=/"},
		{[]string{"elsewhere:1"}, nil, w, nil, "other=1, lb=c:1; Path=/"},
		{order, errors.New("unknown"), w, nil, "other=1, lb=c:1; Path=/"},
	} {
		order, problem = test.order, test.err
		if got := p.Select(pool, r, test.w); got != test.want {
			t.Errorf("%v: got %v, want %v", test.order, got, test.want)
		}
		if got := strings.Join(w.Header()["Set-Cookie"], ", "); got != test.cookie {
			t.Errorf("%v: got cookies %q, want %q", test.order, got, test.cookie)
		}
	}
}

func TestPoolPolicyInCaddyfile(t *testing.T) {
	for config, want := range map[string]string{
		"websocket_proxy chat":             "",
		"websocket_proxy":                  "lb_policy websocket_proxy needs the name of a websocket_proxy",
		`websocket_proxy ""`:               "lb_policy websocket_proxy has an empty name",
		"websocket_proxy chat more":        "lb_policy websocket_proxy has too many arguments: more",
		"websocket_proxy chat {\n a b\n }": "lb_policy websocket_proxy has no block",
	} {
		p := NewPoolPolicy(nil)
		err := p.UnmarshalCaddyfile(caddyfile.NewTestDispenser(config))
		switch {
		case want == "" && (err != nil || p.Pool != "chat"):
			t.Errorf("%s: got %q and %v", config, p.Pool, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %s", config, err, want)
		}
	}
}

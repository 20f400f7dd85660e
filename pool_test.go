package websocketproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// clientRequest returns the i-th of many differing requests, as Caddy's server
// would prepare it.
func clientRequest(i int) *http.Request {
	r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("/room/%d?user=%d", i, i), nil)
	r.RemoteAddr = fmt.Sprintf("192.0.2.%d:%d", i, 40_000+i)
	r.Header.Set("X-User", fmt.Sprintf("user-%d", i))
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, new(caddyhttp.Server))
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, fmt.Sprintf("198.51.100.%d", i))
	return r
}

// theirChoice is what a selection policy of Caddy chooses from a pool by
// itself, and the header that it sets.
func theirChoice(tb testing.TB, config string, dials []string, r *http.Request) (string, http.Header) {
	tb.Helper()
	var named struct {
		Policy string `json:"policy"`
	}
	mustParse(tb, json.RawMessage(config), &named)
	var options map[string]any
	mustParse(tb, json.RawMessage(config), &options)
	delete(options, "policy")
	raw, err := json.Marshal(options)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := newContext()
	defer cancel()
	mod, err := ctx.LoadModuleByID("http.reverse_proxy.selection_policies."+named.Policy, raw)
	if err != nil {
		tb.Fatal(err)
	}
	var pool reverseproxy.UpstreamPool
	for _, dial := range dials {
		pool = append(pool, &reverseproxy.Upstream{Dial: dial, Host: new(reverseproxy.Host)})
	}
	w := httptest.NewRecorder()
	selector, ok := mod.(reverseproxy.Selector)
	if !ok {
		tb.Fatalf("%T is no selector", mod)
	}
	return selector.Select(pool, r, w).Dial, w.Header()
}

// choose makes a choice without waiting for one.
func (h *Handler) choose(c *upstream.Candidates, r *http.Request) picked {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c.Client, _ = upstream.ClientOf(clientIP(r))
	t := attempts{guest: h.guest, client: h.sticky.Know(r, c), candidates: c}
	chosen, _ := t.Pick(ctx, r)
	return chosen
}

// chooseOnce makes one choice, and ends the tunnel at once.
func chooseOnce(tb testing.TB, h *Handler, r *http.Request) (string, http.Header) {
	tb.Helper()
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	c, err := h.pool.Candidates(expander(repl))
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	chosen := h.choose(c, r)
	if chosen.Choice == nil {
		return "", nil
	}
	chosen.visit.Leave()
	process.table.GiveBack(chosen.Choice)
	return chosen.Host.Address, chosen.header
}

func TestPoliciesOfOtherModulesChooseAsInReverseProxy(t *testing.T) {
	dials := []string{"10.0.0.1:9000", "10.0.0.2:9000", "10.0.0.3:9000", "10.0.0.4:9000", "10.0.0.5:9000"}
	for name, config := range map[string]string{
		"ip_hash":        `{"policy": "ip_hash"}`,
		"client_ip_hash": `{"policy": "client_ip_hash"}`,
		"uri_hash":       `{"policy": "uri_hash"}`,
		"first":          `{"policy": "first"}`,
		"header":         `{"policy": "header", "field": "X-User"}`,
		"query":          `{"policy": "query", "key": "user"}`,
		"cookie":         `{"policy": "cookie", "secret": "s", "fallback": {"policy": "ip_hash"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { expectNothingHeld(t) })
			h := &Handler{
				Upstreams:     upstreams(dials...),
				LoadBalancing: &LoadBalancing{SelectionPolicyRaw: json.RawMessage(config)},
			}
			load(t, h)
			chosen := make(map[string]bool)
			for i := range 60 {
				r := clientRequest(i)
				want, wantHeader := theirChoice(t, config, dials, r)
				got, gotHeader := chooseOnce(t, h, r)
				if got != want {
					t.Errorf("client %d goes to %s, with reverse_proxy to %s", i, got, want)
				}
				if gotCookie, wantCookie := gotHeader.Get("Set-Cookie"), wantHeader.Get("Set-Cookie"); gotCookie != wantCookie {
					t.Errorf("client %d gets cookie %q, want %q", i, gotCookie, wantCookie)
				}
				chosen[got] = true
			}
			if len(chosen) != len(dials) && name != "first" {
				t.Errorf("only %d of %d upstreams were chosen", len(chosen), len(dials))
			}
		})
	}
}

// A cookie that reverse_proxy has set for polling leads to the same upstream.
func TestCookieOfReverseProxyIsHonoured(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	const config = `{"policy": "cookie", "name": "backend", "secret": "s"}`
	dials := []string{"10.0.0.1:9000", "10.0.0.2:9000", "10.0.0.3:9000"}
	h := &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{SelectionPolicyRaw: json.RawMessage(config)},
	}
	load(t, h)
	for i := range 20 {
		want, header := theirChoice(t, config, dials, clientRequest(i))
		cookies := (&http.Response{Header: header}).Cookies()
		r := clientRequest(i)
		r.AddCookie(cookies[0])
		got, gotHeader := chooseOnce(t, h, r)
		if got != want || len(gotHeader) != 0 {
			t.Errorf("the choice is %s with header %v, want %s without", got, gotHeader, want)
		}
	}
}

func TestRandomOfReverseProxyIsAnother(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	h := &Handler{
		Upstreams:     upstreams("10.0.0.1:9000", "10.0.0.2:9000"),
		LoadBalancing: &LoadBalancing{SelectionPolicyRaw: json.RawMessage(`{"policy": "random"}`)},
	}
	load(t, h)
	chosen := make(map[string]bool)
	for range 100 { // of which all are the same once in 2^99 runs
		address, _ := chooseOnce(t, h, clientRequest(0))
		chosen[address] = true
	}
	if len(chosen) != 2 {
		t.Errorf("chose only %v", chosen)
	}
}

// As in reverse_proxy, zero says that there is no limit.
func TestPlaceholderOfNoCap(t *testing.T) {
	repl := caddy.NewReplacer()
	setUpstream(repl, upstream.Address{}, 0, -1, 0)
	if got, _ := repl.Get("http.reverse_proxy.upstream.max_requests"); got != 0 {
		t.Errorf("max_requests is %v, want 0", got)
	}
}

func TestHostsAreToldApart(t *testing.T) {
	for dial, want := range map[string]string{
		"localhost:9000":        "localhost:9000",
		"tcp/localhost:9000":    "localhost:9000",
		"tcp4/localhost:9000":   "tcp4/localhost:9000",
		":9000":                 ":9000",
		"[::1]:9000":            "[::1]:9000",
		"unix//run/ws.sock":     "unix//run/ws.sock",
		"unix/relative/ws.sock": "unix/relative/ws.sock",
	} {
		a, err := settings.ParseAddress(dial)
		if err != nil {
			t.Errorf("%s: %v", dial, err)
			continue
		}
		if got := a.Key(); got != want {
			t.Errorf("the host of %s is %s, want %s", dial, got, want)
		}
	}
}

package sticky

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// dials are spelled in all ways that reverse_proxy knows.
var dials = []string{
	"10.0.0.1:80", "[2001:db8::1]:80", "localhost:8080", "unix//run/app.sock", "{http.vars.app}:80", "tcp/10.0.0.2:80",
	"10.0.0.3:80", "app-7.pods.example:3000",
}

// theirs loads reverse_proxy's own policy.
func theirs(t *testing.T, config string) reverseproxy.Selector {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	holder := struct {
		Raw json.RawMessage `caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`
	}{json.RawMessage(config)}
	mod, err := ctx.LoadModule(&holder, "Raw")
	if err != nil {
		t.Fatal(err)
	}
	return mod.(reverseproxy.Selector)
}

func theirPool() (pool reverseproxy.UpstreamPool) {
	for _, dial := range dials {
		pool = append(pool, &reverseproxy.Upstream{Dial: dial, Host: new(reverseproxy.Host)})
	}
	return pool
}

func parse(t *testing.T, config string) *Settings {
	t.Helper()
	s, err := Parse(json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// endpoint makes one that is spelled so, and nothing else.
func endpoint(dial string) *upstream.Endpoint {
	return upstream.NewEndpoint(&upstream.Server{Weight: 1, Dial: dial}, upstream.Address{HostPort: dial})
}

func ourPool(s *Settings) (*Cookies, []*upstream.Endpoint) {
	c := NewCookies(s)
	var all []*upstream.Endpoint
	for _, dial := range dials {
		e := endpoint(dial)
		all = append(all, e)
		c.Join(e)
	}
	return c, all
}

// request is one with what Caddy's server leaves in the context.
func request(vars map[string]any) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/chat?room=a&room=b", http.NoBody)
	if vars == nil {
		vars = make(map[string]any) // which theirs takes for granted
	}
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars))
}

func TestCookieIsTheirs(t *testing.T) {
	trusted := map[string]any{caddyhttp.TrustedProxyVarKey: true}
	for _, test := range []struct {
		name, config string
		vars         map[string]any
		change       func(*http.Request)
	}{
		{"plain", `{"policy":"cookie"}`, nil, nil},
		{"name and secret", `{"policy":"cookie","name":"SRV","secret":"s3cret"}`, nil, nil},
		{"age", `{"policy":"cookie","max_age":"1h"}`, nil, nil},
		{"short age", `{"policy":"cookie","max_age":"500ms"}`, nil, nil},
		{"TLS", `{"policy":"cookie"}`, nil, func(r *http.Request) { r.TLS = new(tls.ConnectionState) }},
		{
			"TLS at a proxy", `{"policy":"cookie"}`, trusted,
			func(r *http.Request) { r.Header["X-Forwarded-Proto"] = []string{"http", "https"} },
		},
		{
			"none at a proxy", `{"policy":"cookie"}`, trusted,
			func(r *http.Request) { r.Header["X-Forwarded-Proto"] = []string{"https", "http"} },
		},
		{
			"TLS at a liar", `{"policy":"cookie"}`, nil,
			func(r *http.Request) { r.Header["X-Forwarded-Proto"] = []string{"https"} },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			policy, pool := theirs(t, test.config), theirPool()
			cookies, endpoints := ourPool(parse(t, test.config))
			for i := range dials {
				r := request(test.vars)
				if test.change != nil {
					test.change(r)
				}
				// Theirs chooses at random, so it gets one to choose from.
				w := httptest.NewRecorder()
				if policy.Select(pool[i:i+1], r, w) != pool[i] {
					t.Fatal("reverse_proxy has chosen nothing")
				}
				ours := make(http.Header)
				cookies.Set(ours, r, endpoints[i])
				if got, want := ours.Get("Set-Cookie"), w.Header().Get("Set-Cookie"); got != want || want == "" {
					t.Errorf("%s: got %q, want %q", dials[i], got, want)
				}
				back := request(nil)
				for _, cookie := range w.Result().Cookies() {
					back.AddCookie(cookie)
				}
				if got := cookies.Home(back, nil); got != endpoints[i] {
					t.Errorf("their cookie of %s leads to %v", dials[i], got)
				}
				if got := policy.Select(pool, back, httptest.NewRecorder()); got != pool[i] {
					t.Errorf("our cookie of %s leads them to %v", dials[i], got)
				}
			}
		})
	}
}

func TestHashIsTheirs(t *testing.T) {
	long := make([]byte, longestKey)
	for i := range long {
		long[i] = 'a' + byte(i%26)
	}
	for _, config := range []string{
		`{"policy":"ip_hash"}`, `{"policy":"client_ip_hash"}`, `{"policy":"uri_hash"}`,
		`{"policy":"header","field":"x-room"}`, `{"policy":"header","field":"Host"}`, `{"policy":"query","key":"room"}`,
	} {
		policy, pool := theirs(t, config), theirPool()
		settings := parse(t, config)
		var v Rendezvous
		for i := range 300 {
			r := request(map[string]any{caddyhttp.ClientIPVarKey: fmt.Sprintf("2001:db8::%x", i)})
			r.RemoteAddr = fmt.Sprintf("[2001:db8:1::%x]:%d", i, 1024+i)
			r.RequestURI = fmt.Sprintf("/%d?%s", i, long[:i*6])
			r.Host = fmt.Sprintf("h%d.example", i)
			r.URL.RawQuery = fmt.Sprintf("room=%d&room=b", i)
			r.Header.Set("X-Room", fmt.Sprintf("%d%s", i, long[:i*6]))
			want := policy.Select(pool, r, httptest.NewRecorder()).Dial
			if got := winner(&v, settings.Key(r), nil); got != want {
				t.Fatalf("%s, client %d: got %s, want %s", config, i, got, want)
			}
		}
	}
}

// winner is who has a key among dials, with these weights or all with the same.
func winner(v *Rendezvous, key string, weights []int) (best string) {
	v.Start(key)
	for i, dial := range dials {
		weight := 7
		if weights != nil {
			weight = weights[i]
		}
		if v.Wins(dial, weight) {
			best = dial
		}
	}
	return best
}

package websocketproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// bothSides are a handler, and the policy by which reverse_proxy asks it.
type bothSides struct {
	*polledSite

	policy reverseproxy.Selector
}

func loadBothSides(t *testing.T, lb *LoadBalancing, ups ...*Upstream) *bothSides {
	t.Helper()
	t.Cleanup(func() { expectNothingHeld(t) })
	s := loadPolled(t, "chat", &Handler{Name: "chat", Upstreams: ups, LoadBalancing: lb})
	mod, err := s.ctx.LoadModuleByID("http.reverse_proxy.selection_policies.websocket_proxy", json.RawMessage(`{"pool": "chat"}`))
	if err != nil {
		t.Fatal(err)
	}
	policy, ok := mod.(reverseproxy.Selector)
	if !ok {
		t.Fatalf("%T is no policy", mod)
	}
	return &bothSides{s, policy}
}

// poll returns where a request goes, which takes the cookie that it gets. reverse_proxy has
// what the source gives but for those that its own checks exclude.
func (s *bothSides) poll(t *testing.T, r *http.Request, excluded ...string) string {
	t.Helper()
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	vars = maps.Clone(vars)
	return s.tryPoll(t, r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars)), excluded...)
}

// tryPoll is poll for a request that may have been tried before.
func (s *bothSides) tryPoll(t *testing.T, r *http.Request, excluded ...string) string {
	t.Helper()
	pool, err := s.source.GetUpstreams(r)
	if err != nil {
		t.Fatal(err)
	}
	var may reverseproxy.UpstreamPool
	for _, up := range pool {
		if up.Host = new(reverseproxy.Host); !slices.Contains(excluded, up.Dial) {
			may = append(may, up)
		}
	}
	w := httptest.NewRecorder()
	up := s.policy.Select(may, r, w)
	if up == nil {
		return ""
	}
	takeCookies(r, w.Header())
	return up.Dial
}

// takeCookies has a client keep what it has got.
func takeCookies(r *http.Request, header http.Header) {
	for _, cookie := range (&http.Response{Header: header}).Cookies() {
		r.Header.Set("Cookie", cookie.Name+"="+cookie.Value)
	}
}

// However a client comes first, both sides send it to the same upstream from then on.
func TestPollingAndTunnelsAgree(t *testing.T) {
	for _, policy := range []string{
		`{"policy": "cookie"}`, `{"policy": "cookie", "fallback": {"policy": "round_robin"}}`, `{"policy": "ip_hash"}`,
		`{"policy": "client_ip_hash"}`, `{"policy": "header", "field": "X-User"}`, `{"policy": "query", "key": "user"}`,
		`{"policy": "header", "field": "X-None", "fallback": {"policy": "cookie"}}`,
	} {
		t.Run(policy, func(t *testing.T) {
			s := loadBothSides(t, stickyBalancing(policy), &Upstream{Dial: hostA}, &Upstream{Dial: hostB, Weight: 3}, &Upstream{Dial: hostC})
			defer operate(upstream.Ready, hostB)
			used := make(map[string]bool)
			for i := range 60 {
				if i == 30 {
					operate(upstream.Drain, hostB)
				}
				r := clientRequest(i % 40) // some of them again
				var home string
				for j := range 4 {
					var got string
					if (i+j)%2 == 0 {
						got = s.poll(t, r)
					} else {
						var header http.Header
						got, header = chooseOnce(t, s.handler[0], r)
						takeCookies(r, header)
					}
					if j > 0 && got != home {
						t.Fatalf("client %d goes to %s, and then to %s", i, home, got)
					}
					home = got
				}
				used[home] = true
			}
			if len(used) != 3 {
				t.Errorf("used are %v", used)
			}
		})
	}
}

// What reverse_proxy excludes by its own checks is none to its clients, either.
func TestPollingGoesAroundWhatReverseProxyExcludes(t *testing.T) {
	s := loadBothSides(t, stickyBalancing(`{"policy": "cookie", "fallback": {"policy": "first"}}`),
		&Upstream{Dial: hostA}, &Upstream{Dial: hostB})
	r := clientRequest(0)
	for _, step := range []struct {
		excluded []string
		want     string
	}{{nil, hostA}, {[]string{hostA}, hostB}, {nil, hostB}, {[]string{hostA, hostB}, ""}} {
		if got := s.poll(t, r, step.excluded...); got != step.want {
			t.Errorf("without %v: got %q, want %q", step.excluded, got, step.want)
		}
	}
}

// One that cannot be reached is not tried again for a request while there are others.
func TestPollingIsTriedElsewhere(t *testing.T) {
	s := loadBothSides(t, stickyBalancing(`{"policy": "cookie", "fallback": {"policy": "first"}}`),
		&Upstream{Dial: hostA}, &Upstream{Dial: hostB})
	r := clientRequest(0)
	for i, want := range []string{hostA, hostB, hostB} {
		if got := s.tryPoll(t, r); got != want {
			t.Errorf("try %d: got %s, want %s", i, got, want)
		}
	}
}

// Clients that begin with a request are balanced before the first of their tunnels is there.
func TestNewcomersThatPollAreBalanced(t *testing.T) {
	s := loadBothSides(t, stickyBalancing(`{"policy": "cookie"}`), &Upstream{Dial: hostA}, &Upstream{Dial: hostB, Weight: 3})
	got := make(map[string]int)
	for i := range 40 {
		got[s.poll(t, clientRequest(i))]++
	}
	if got[hostA] != 10 || got[hostB] != 30 {
		t.Errorf("got %v, want 10 and 30", got)
	}
	// All of them come.
	for i := range 40 {
		r := clientRequest(i)
		home := hostA
		if i >= 10 {
			home = hostB
		}
		r.Header.Set("Cookie", "lb="+cookieOf(t, home))
		if at, _ := chooseOnce(t, s.handler[0], r); at != home {
			t.Errorf("client %d of %s goes to %s", i, home, at)
		}
	}
	if at := s.poll(t, clientRequest(40)); at != hostB && at != hostA {
		t.Errorf("got %q", at)
	}
}

// Those whose tunnels were closed for others go to these, though they have a cookie: as many
// as were closed, and only as they open a session.
func TestRebalancedClientsOfACookieMove(t *testing.T) {
	lb := stickyBalancing(`{"policy": "cookie"}`)
	lb.StickySession = []sticky.Opening{{Query: "!sid"}}
	s := loadBothSides(t, lb, &Upstream{Dial: hostA}, &Upstream{Dial: hostB})
	h := s.handler[0]
	defer process.table.TunnelEnded(reserve(hostA))
	h.rebalances(h.clientGroup(), 2, map[string]int{hostA: 2})
	var got []string
	for _, query := range []string{"sid=1", "", "sid=1", "", ""} {
		r := clientRequest(0)
		r.URL.RawQuery = query
		r.Header.Set("Cookie", "lb="+cookieOf(t, hostA))
		if len(got)%2 == 0 {
			got = append(got, s.poll(t, r))
			continue
		}
		at, _ := chooseOnce(t, h, r)
		got = append(got, at)
	}
	if want := fmt.Sprint([]string{hostA, hostB, hostA, hostB, hostA}); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

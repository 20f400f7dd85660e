package websocketproxy

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// stickyBalancing has a sticky policy.
func stickyBalancing(policy string) *LoadBalancing {
	return &LoadBalancing{SelectionPolicyRaw: json.RawMessage(policy)}
}

// cookieOf is the value of the cookie that an upstream's clients have without a secret.
func cookieOf(t *testing.T, dial string) string {
	t.Helper()
	_, header := theirChoice(t, `{"policy": "cookie"}`, []string{dial}, clientRequest(0))
	return (&http.Response{Header: header}).Cookies()[0].Value
}

// open opens a tunnel, and returns the cookie that was set for it, or none.
func (p *testProxy) open(t *testing.T, cookie string) (c *testbed.Client, set string) {
	t.Helper()
	c = testbed.Dial(t, p.Addr)
	var header []string
	if cookie != "" {
		header = []string{"Cookie: lb=" + cookie}
	}
	for _, cookie := range c.Handshake("/", header...).Cookies() {
		set += cookie.Value
	}
	return c, set
}

// As least_conn: 60 tunnels at one upstream, then a second one, and 60 newcomers.
func TestNewcomersOfAStickyPolicyGoByTunnels(t *testing.T) {
	for name, policy := range map[string]string{
		"cookie": `{"policy": "cookie", "fallback": {"policy": "least_conn"}}`,
		"header": `{"policy": "header", "field": "User"}`,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
			p := newProxy(t, &Handler{Upstreams: upstreams(a.Addr, b.Addr), LoadBalancing: stickyBalancing(policy)})
			defer operate(upstream.Ready, b.Addr)
			operate(upstream.Maint, b.Addr)
			for range 60 {
				p.open(t, "")
			}
			operate(upstream.Ready, b.Addr)
			for range 60 {
				p.open(t, "")
			}
			if gotA, gotB := tunnelsOf(a.Addr), tunnelsOf(b.Addr); gotA != 60 || gotB != 60 {
				t.Errorf("%d and %d tunnels, want 60 and 60", gotA, gotB)
			}
		})
	}
}

// What a client with a cookie meets, with real sockets. The fallback is `first`, and the
// cookie that of the second upstream.
func TestClientsWithACookie(t *testing.T) {
	for name, test := range map[string]struct {
		cookie  func(home string) string // of the client, if not that of home
		home    Upstream
		changes func(home *testbed.Upstream)
		moves   bool
	}{
		"stays": {},
		"stays at one that drains": {
			changes: func(home *testbed.Upstream) { operate(upstream.Drain, home.Addr) },
		},
		"moves if it is closed for everybody": {
			changes: func(home *testbed.Upstream) { operate(upstream.Maint, home.Addr) }, moves: true,
		},
		"moves if it is evicted": {
			changes: func(home *testbed.Upstream) { operate(upstream.Evict, home.Addr) }, moves: true,
		},
		"moves if it cannot be reached": {
			changes: func(home *testbed.Upstream) { home.Stop() }, moves: true,
		},
		"stays at a backup": {home: Upstream{Backup: true}},
		"is a newcomer with a cookie that is forged": {
			cookie: func(home string) string { return strings.Repeat("0", len(cookieOf(t, home))) }, moves: true,
		},
		"is a newcomer with a cookie of one that has gone": {
			cookie: func(string) string { return cookieOf(t, "gone.test:80") }, moves: true,
		},
		"is a newcomer with an address as a cookie": {
			cookie: func(home string) string { return home }, moves: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			first, home := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
			test.home.Dial = home.Addr
			p := newProxy(t, &Handler{
				Upstreams:     []*Upstream{{Dial: first.Addr}, &test.home},
				LoadBalancing: stickyBalancing(`{"policy": "cookie", "fallback": {"policy": "first"}}`),
			})
			defer operate(upstream.Ready, home.Addr)
			if test.changes != nil {
				test.changes(home)
			}
			cookie := cookieOf(t, home.Addr)
			if test.cookie != nil {
				cookie = test.cookie(home.Addr)
			}
			_, set := p.open(t, cookie)
			want, wantCookie := [2]int{0, 1}, ""
			if test.moves {
				want, wantCookie = [2]int{1, 0}, cookieOf(t, first.Addr)
			}
			if got := [2]int{tunnelsOf(first.Addr), tunnelsOf(home.Addr)}; got != want || set != wantCookie {
				t.Errorf("tunnels are %v, and the cookie is %q; want %v and %q", got, set, want, wantCookie)
			}
			// With the cookie that it has now, it stays.
			if set != "" {
				cookie = set
			}
			if _, again := p.open(t, cookie); again != "" {
				t.Errorf("got another cookie: %q", again)
			}
		})
	}
}

// Drained upstreams get clients that know them, and no newcomers.
func TestDrainedUpstreamGetsItsClientsOnly(t *testing.T) {
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{Upstreams: upstreams(a.Addr, b.Addr), LoadBalancing: stickyBalancing(`{"policy": "cookie"}`)})
	defer operate(upstream.Ready, a.Addr)
	operate(upstream.Drain, a.Addr)
	for range 5 {
		if _, set := p.open(t, ""); set != cookieOf(t, b.Addr) {
			t.Errorf("a newcomer gets cookie %q", set)
		}
		p.open(t, cookieOf(t, a.Addr))
	}
	if gotA, gotB := tunnelsOf(a.Addr), tunnelsOf(b.Addr); gotA != 5 || gotB != 5 {
		t.Errorf("%d and %d tunnels, want 5 and 5", gotA, gotB)
	}
}

// Who has a session at an upstream that takes no more tunnels is refused, and others move.
func TestFullUpstreamOfAClient(t *testing.T) {
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	lb := stickyBalancing(`{"policy": "cookie"}`)
	lb.StickySession = []sticky.Opening{{Query: "!sid"}}
	p := newProxy(t, &Handler{Upstreams: []*Upstream{{Dial: a.Addr, MaxTunnels: 1}, {Dial: b.Addr}}, LoadBalancing: lb})
	cookie := "Cookie: lb=" + cookieOf(t, a.Addr)
	testbed.Dial(t, p.Addr).Handshake("/", cookie)
	refused := testbed.Dial(t, p.Addr)
	refused.Send(testbed.HandshakeRequest("/?sid=1", refused.Host, cookie))
	expectRetryAfter(t, refused.Response().Header)
	expectFields(t, p.line("handshake refused"), map[string]any{"cause": "upstream_full", "status": int64(503)})
	if moved := testbed.Dial(t, p.Addr).Handshake("/", cookie).Cookies(); len(moved) != 1 || moved[0].Value != cookieOf(t, b.Addr) {
		t.Errorf("who opens a session gets cookies %v", moved)
	}
}

package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// crowd is how many clients there are of each kind.
const crowd = 12

// visitors are clients that all differ in the field X-User, each with the
// backend that it comes to. At least one comes to b.
func visitors(tb testing.TB, c *caddy, path string, b *backend) (all []*visitor, homes []string) {
	tb.Helper()
	for i := range 10 * crowd {
		if i >= crowd && slices.Contains(homes, b.addr) {
			return all, homes
		}
		v := newVisitor(tb, c, schemes[i%2], path)
		v.header.Set("X-User", fmt.Sprint("user ", i))
		all, homes = append(all, v), append(homes, v.visit(tb, i%4 < 2))
	}
	tb.Fatalf("no client comes to %s, but to %q", b.addr, homes)
	return nil, nil
}

// TestStickyUpstreamIsDown stops a backend and starts it again. Its clients go
// to another one, the same with requests and WebSockets: with a hash for as long
// as it is down, with a cookie for good.
func TestStickyUpstreamIsDown(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		policy string
		stay   bool // where they have gone
	}{
		"hash":   {policy: "header X-User"},
		"cookie": {policy: "cookie", stay: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backends, addrs := startBackends(t, 3)
			c := startCaddy(t, site(bothTo(addrs, test.policy, "lb_retries 2", "fail_duration 1s")))
			down := backends[0]
			clients, homes := visitors(t, c, "/", down)
			down.stop()
			away := make([]string, len(clients))
			for i, v := range clients {
				cookie := v.cookie()
				away[i] = v.visit(t, i%2 == 0)
				moved := homes[i] == down.addr
				if moved != (away[i] != homes[i]) {
					t.Errorf("client %d comes to %s instead of %s, but %s is down", i, away[i], homes[i], down.addr)
				}
				if test.stay && moved != (v.cookie() != cookie) {
					t.Errorf("client %d: moved: %t; had cookie %q, has %q", i, moved, cookie, v.cookie())
				}
			}

			if err := down.start(t); err != nil {
				t.Fatalf("starting the backend again: %v", err)
			}
			for i, v := range clients {
				want := homes[i]
				if test.stay {
					want = away[i]
				}
				// It takes a moment to forget failures.
				eventually(t, fmt.Sprintf("%s is back, and client %d comes to %s", down.addr, i, want), func() bool {
					return v.poll(t) == want && v.handshake(t) == want
				})
			}
		})
	}
}

// TestStickyUpstreamIsInMaint lets an operator close a backend to everybody.
func TestStickyUpstreamIsInMaint(t *testing.T) {
	t.Parallel()
	backends, addrs := startBackends(t, 3)
	shut := backends[0]
	var routes []string
	for name, policy := range map[string]string{"cookie": "cookie", "hash": "header X-User"} {
		others := backends[1].addr + " " + backends[2].addr
		routes = append(routes, under(name, bothTo(addrs, policy)), under(name+"-spared", sideBySide(addrs, others, policy)))
	}
	c := startCaddy(t, site(strings.Join(routes, "\n")))
	withCookie, homes := visitors(t, c, "/cookie/", shut)
	withHash, hashed := visitors(t, c, "/hash/", shut)
	open, at := withCookie[slices.Index(homes, shut.addr)].twin(t).open(t)
	if at != shut.addr {
		t.Fatalf("the twin came to %s, want %s", at, shut.addr)
	}
	c.operate(t, shut.addr, "maint")
	before := shut.handshakes()

	away := make([]string, len(withCookie))
	for i, v := range withCookie {
		cookie := v.cookie()
		away[i] = v.handshake(t)
		if got := v.visit(t, true); got != away[i] {
			t.Errorf("client %d comes to %s, and then to %s", i, away[i], got)
		}
		moved := homes[i] == shut.addr
		if moved != (away[i] != homes[i]) || moved != (v.cookie() != cookie) {
			t.Errorf("client %d comes to %s instead of %s, but %s is in maint; it had cookie %q, and has %q",
				i, away[i], homes[i], shut.addr, cookie, v.cookie())
		}
	}
	for i := range crowd {
		v := newVisitor(t, c, schemes[i%2], "/cookie/")
		if i%4 < 2 {
			v.poll(t) // reverse_proxy may choose any
		}
		home := v.handshake(t)
		if got := v.visit(t, true); got != home {
			t.Errorf("new client %d comes to %s, and then to %s", i, home, got)
		}
	}
	for i, v := range withHash {
		got := v.handshake(t)
		if moved := hashed[i] == shut.addr; moved != (got != hashed[i]) || got != v.handshake(t) {
			t.Errorf("client %d comes to %s instead of %s, but %s is in maint", i, got, hashed[i], shut.addr)
		}
	}

	// Where reverse_proxy has not got it, requests agree from the first one on.
	for i, v := range withHash {
		newVisitor(t, c, schemes[i%2], "/cookie-spared/").visit(t, i%4 < 2)
		v.path = "/hash-spared/"
		v.visit(t, i%4 < 2)
		v.path = "/hash/"
	}
	if n := shut.handshakes() - before; n > 0 {
		t.Errorf("the upstream in maint got %d handshakes", n)
	}
	echoText(t, open, "still open")

	c.operate(t, shut.addr, "ready")
	for i, v := range withCookie {
		if got := v.visit(t, i%2 == 0); got != away[i] {
			t.Errorf("%s is ready, and client %d comes to %s, want %s", shut.addr, i, got, away[i])
		}
	}
	for i, v := range withHash {
		if got := v.visit(t, i%2 == 0); got != hashed[i] {
			t.Errorf("%s is ready, and client %d comes to %s, want %s", shut.addr, i, got, hashed[i])
		}
	}
}

// TestStickyUpstreamIsFull has two backends with room for one tunnel each. A
// client that belongs to a full one goes to where there is room.
func TestStickyUpstreamIsFull(t *testing.T) {
	t.Parallel()
	backends, addrs := startBackends(t, 2)
	upstreams := fmt.Sprintf("upstream %s max_tunnels 1\nupstream %s max_tunnels 1\nlb_policy cookie\nsticky_session path *\n",
		backends[0].addr, backends[1].addr)
	c := startCaddy(t, site(
		under("patient", "websocket_proxy {\n"+upstreams+"lb_try_duration 1m\n}")+
			"\nwebsocket_proxy {\n"+upstreams+"queue off\n}\nreverse_proxy "+addrs+" {\nlb_policy cookie\n}"))
	first := newVisitor(t, c, "ws", "/")
	holding, full := first.open(t)
	second, third := first.twin(t), first.twin(t)
	if got := second.poll(t); got != full {
		t.Fatalf("a request with the cookie of %s comes to %s", full, got)
	}
	leaving, other := second.open(t)
	if other == full || second.cookie() == first.cookie() {
		t.Errorf("with the cookie of %s, which is full, a client comes to %s, and has cookie %q", full, other, second.cookie())
	}
	if got := second.poll(t); got != other {
		t.Errorf("its requests come to %s, want %s", got, other)
	}
	c.expectNoUpstream(t)

	// Who waits for room takes any.
	third.path = "/patient/"
	opened := testbed.Go(t, func(tb testing.TB) {
		client, got := third.open(tb)
		if got != other {
			tb.Errorf("a client that belongs to %s, which is full, comes to %s, want %s", full, got, other)
		}
		echoText(tb, client, "hello")
		client.close(tb, 1000, "")
	})
	echoText(t, leaving, "leaving")
	leaving.close(t, 1000, "")
	opened()
	third.path = "/"
	if got := third.poll(t); got != other {
		t.Errorf("its requests come to %s, want %s", got, other)
	}
	echoText(t, holding, "still there")
}

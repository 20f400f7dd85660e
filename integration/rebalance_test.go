package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	gorilla "github.com/gorilla/websocket"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// keepOpen has n clients connect, every other over TLS. Those that are told to
// come back do so, until the test ends.
func (c *caddy) keepOpen(tb testing.TB, n int) {
	tb.Helper()
	keep := c.keeper(tb)
	for i := range n {
		keep(c.url(schemes[i%2], "/"), func(string) {})
	}
}

// keeper returns what has a client connect, and come back until the test ends. Where the
// client is, at is told.
func (c *caddy) keeper(tb testing.TB) (keep func(url string, at func(upstream string))) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	tb.Cleanup(func() {
		cancel()
		clients.Wait()
	})
	return func(url string, at func(upstream string)) {
		clients.Go(func() { c.comeBack(ctx, tb, url, at) })
	}
}

// comeBack connects again and again, until the context ends. Where it is, at is told; "" is
// nowhere.
func (c *caddy) comeBack(ctx context.Context, tb testing.TB, url string, at func(upstream string)) {
	tb.Helper()
	for ctx.Err() == nil {
		code := c.stayOpen(ctx, url, at)
		at("")
		if code != 0 && code != 1012 {
			tb.Errorf("a client was closed with status %d, want 1012", code)
			return
		}
	}
}

// stayOpen connects and waits for a Close, whose status it returns. It is zero
// if there was no connection, as one can be reset by a reload.
func (c *caddy) stayOpen(ctx context.Context, url string, at func(upstream string)) int {
	d := gorilla.Dialer{HandshakeTimeout: timeout, TLSClientConfig: c.certs.ClientConfig()}
	conn, resp, err := d.DialContext(ctx, url, nil)
	if err != nil {
		return 0
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	at(resp.Header.Get("X-Upstream"))
	_, _, err = conn.ReadMessage()
	if ctx.Err() != nil {
		return 0
	}
	return gorillaEnd(conn, err).Code
}

// tunnels returns how many tunnels the upstreams have, as the admin endpoint
// tells, without those that may still come to nothing.
func (c *caddy) tunnels(tb testing.TB, addrs []string) []int {
	tb.Helper()
	status, answer, err := c.adminRequest(tb, http.MethodGet, "/websocket_proxy/upstreams", "")
	if err != nil || status != http.StatusOK {
		tb.Fatalf("listing upstreams: status %d, %v: %s", status, err, answer)
	}
	var list struct {
		Upstreams []struct {
			Address             string
			Tunnels, Handshakes int
		}
	}
	if err := json.Unmarshal([]byte(answer), &list); err != nil {
		tb.Fatalf("listing upstreams: %v: %s", err, answer)
	}
	counts := make([]int, len(addrs))
	for i, addr := range addrs {
		for _, up := range list.Upstreams {
			if up.Address == addr {
				counts[i] = up.Tunnels - up.Handshakes
			}
		}
	}
	return counts
}

// operate gives an upstream a state.
func (c *caddy) operate(tb testing.TB, addr, state string) {
	tb.Helper()
	body := fmt.Sprintf(`{"address": %q, "state": %q}`, addr, state)
	status, answer, err := c.adminRequest(tb, http.MethodPost, "/websocket_proxy/upstreams/state", body)
	if err != nil || status != http.StatusOK {
		tb.Fatalf("setting %s: status %d, %v: %s", body, status, err, answer)
	}
}

// waitLevel waits until all clients are connected, and the fullest upstream has
// at most a tenth more tunnels than the emptiest.
func (c *caddy) waitLevel(tb testing.TB, addrs []string, clients int) {
	tb.Helper()
	eventually(tb, fmt.Sprintf("%d tunnels are level over %d upstreams", clients, len(addrs)), func() bool {
		counts := c.tunnels(tb, addrs)
		sum, lowest, highest := 0, clients, 0
		for _, n := range counts {
			sum, lowest, highest = sum+n, min(lowest, n), max(highest, n)
		}
		return sum == clients && 10*(highest-lowest) <= highest
	})
}

// isRebalancing reports whether a step is under way, as the log has it.
func (c *caddy) isRebalancing() bool {
	closing := 0
	for _, step := range c.log.find(message("rebalancing")) {
		closing += int(step.num("closing"))
	}
	return closing != len(c.log.find(message("tunnel closed", "reason", "rebalanced")))
}

// TestRebalance makes a drained upstream ready again, and then adds another one.
func TestRebalance(t *testing.T) {
	t.Parallel()
	const clients = 300
	var addrs []string
	for range 4 {
		addrs = append(addrs, testbed.NewUpstream(t, testbed.Echo).Addr)
	}
	config := func(n int, options ...string) string {
		return site(proxyTo(strings.Join(addrs[:n], " "), options...))
	}
	with, without := startCaddy(t, config(3, "rebalance 50% 2s")), startCaddy(t, config(3))
	for _, c := range []*caddy{with, without} {
		c.operate(t, addrs[2], "drain")
		c.keepOpen(t, clients)
		eventually(t, "all clients are connected", func() bool {
			return fmt.Sprint(c.tunnels(t, addrs)) == "[150 150 0 0]"
		})
	}

	without.operate(t, addrs[2], "ready")
	with.operate(t, addrs[2], "ready")
	with.waitLevel(t, addrs[:3], clients)

	without.reload(t, config(4))
	with.reload(t, config(4, "rebalance 50% 2s"))
	with.waitLevel(t, addrs, clients)

	// 100 have to move, then 75, and some more where clients take longer than a step to come
	// back. The site's two handlers are one pool, so nothing is done twice.
	for _, step := range with.log.find(message("rebalancing")) {
		if n := step.num("closing"); n < 1 || n > 50 {
			t.Errorf("%v tunnels were closed in one step, want half of those that have to move: %v", n, step)
		}
	}
	closed := with.log.find(tunnelClosed)
	if n := len(closed); n > 175*3/2 {
		t.Errorf("%d tunnels were closed, want 175 or little more", n)
	}
	for _, line := range closed {
		if line.str("reason") != "rebalanced" || line.num("close_code") != 1012 || line.str("close_from") != "proxy" {
			t.Errorf("a tunnel was closed in another way: %v", line)
		}
	}
	if got := without.tunnels(t, addrs); fmt.Sprint(got) != "[150 150 0 0]" {
		t.Errorf("without rebalancing the upstreams have %v tunnels, want what they had", got)
	}
	if lines := without.log.find(tunnelClosed); len(lines) > 0 {
		t.Errorf("without rebalancing %d tunnels were closed: %v", len(lines), lines[0])
	}
}

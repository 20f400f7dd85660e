package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// checkedOften are the options of a handler that notices at once what becomes of
// its upstreams.
var checkedOften = []string{"health_check websocket /", "health_interval 50ms", "health_fails 2", "health_passes 2"}

const (
	unhealthy = "upstream is unhealthy"
	recovered = "upstream is healthy again"
)

// healths returns what the admin endpoint says about the health of upstreams.
func (c *caddy) healths(tb testing.TB, addrs ...string) (healths []string) {
	tb.Helper()
	var list struct {
		Upstreams []struct{ Address, Health string }
	}
	c.api(tb, "GET", "upstreams", "", http.StatusOK, &list)
	for _, addr := range addrs {
		for _, up := range list.Upstreams {
			if up.Address == addr {
				healths = append(healths, up.Health)
			}
		}
	}
	return healths
}

func (c *caddy) waitHealths(tb testing.TB, want string, addrs ...string) {
	tb.Helper()
	eventually(tb, "the upstreams are "+want, func() bool { return fmt.Sprint(c.healths(tb, addrs...)) == want })
}

// socketPair returns the addresses of two upstreams, and the second one. They are
// unix sockets, so that nobody else gets the address when it is stopped.
func socketPair(tb testing.TB) (second *testbed.Upstream, addrs []string) {
	tb.Helper()
	first, second := testbed.NewUnixUpstream(tb, testbed.Echo), testbed.NewUnixUpstream(tb, testbed.Echo)
	return second, []string{"unix/" + first.Addr, "unix/" + second.Addr}
}

// TestUnhealthyUpstream has a backend fail its check, across a reload, and come
// back.
func TestUnhealthyUpstream(t *testing.T) {
	t.Parallel()
	const clients = 60
	b, addrs := socketPair(t)
	directive := proxyTo(strings.Join(addrs, " "), slices.Concat(checkedOften, []string{"rebalance 50% 2s"})...)
	c := startCaddy(t, site(directive))
	c.waitHealths(t, "[up up]", addrs...)

	b.Stop()
	c.waitHealths(t, "[up down]", addrs...)
	c.keepOpen(t, clients)
	eventually(t, "all clients are connected", func() bool {
		return fmt.Sprint(c.tunnels(t, addrs)) == fmt.Sprintf("[%d 0]", clients)
	})
	c.reload(t, site("respond /other ok\n"+directive))
	c.keepOpen(t, clients)
	eventually(t, "more clients are connected", func() bool {
		return fmt.Sprint(c.tunnels(t, addrs)) == fmt.Sprintf("[%d 0]", 2*clients)
	})

	b.Start(t)
	c.waitHealths(t, "[up up]", addrs...)
	c.waitLevel(t, addrs, 2*clients)
	for _, message := range []matcher{message(unhealthy, "address", addrs[1]), message(recovered, "address", addrs[1])} {
		if lines := c.log.find(message); len(lines) != 1 {
			t.Errorf("the log has %v, want one such line", lines)
		}
	}
	if lines := c.log.find(message(unhealthy, "address", addrs[0])); len(lines) > 0 {
		t.Errorf("an upstream that was well all the time is said to be unhealthy: %v", lines)
	}
}

// TestUnhealthyUpstreamIsEmptied has a backend whose tunnels live on fail its
// check.
func TestUnhealthyUpstreamIsEmptied(t *testing.T) {
	t.Parallel()
	const clients = 60
	b, addrs := socketPair(t)
	c := startCaddy(t, site(proxyTo(strings.Join(addrs, " "), slices.Concat(checkedOften, []string{"on_unhealthy evict", evictions})...)))
	c.keepOpen(t, clients)
	eventually(t, "all clients are connected", func() bool {
		return fmt.Sprint(c.tunnels(t, addrs)) == fmt.Sprintf("[%d %d]", clients/2, clients/2)
	})
	b.Stop()
	eventually(t, "all clients are at the other one", func() bool {
		return fmt.Sprint(c.tunnels(t, addrs)) == fmt.Sprintf("[%d 0]", clients)
	})
	for _, line := range c.log.wait(t, clients/2, tunnelClosed) {
		if line.str("reason") != "unhealthy" || line.num("close_code") != 1012 || line.str("upstream") != addrs[1] {
			t.Errorf("a tunnel was closed in another way: %v", line)
		}
	}
}

// TestStopDuringAProbe reloads and stops while upstreams leave probes without an
// answer.
func TestStopDuringAProbe(t *testing.T) {
	t.Parallel()
	hanging := []string{"health_timeout 1h", "health_interval 1h"}
	for _, check := range []string{"health_check http", "health_check websocket"} {
		up := testbed.NewUpstream(t, testbed.Silent)
		directive := proxyTo(up.Addr, append(hanging, check)...)
		c := startCaddy(t, site(directive))
		up.WaitAccepted(t, 1)
		c.reload(t, site("respond /other ok\n"+directive))
		up.WaitAccepted(t, 2)
		c.signal(t, syscall.SIGTERM)
		c.expectExit(t)
		up.WaitOpen(t, 0)
	}
}

func TestValidateProbesNothing(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(site(proxyTo(up.Addr, checkedOften...))), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := runCaddy(t, "validate", "--adapter", "caddyfile", "--config", file); code != 0 {
		t.Fatalf("validate: code %d: %s", code, stderr)
	}
	if n := up.Accepted(); n > 0 {
		t.Errorf("validate has probed the upstream %d times", n)
	}
}

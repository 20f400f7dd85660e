package integration

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// evictions are the options of a handler whose tunnels are ended within a second.
const evictions = "evict_period 1s"

// openClients opens n tunnels, every other over wss, and tells the upstream of
// each.
func (c *caddy) openClients(tb testing.TB, n int) (clients []*testbed.Client, upstreams []string) {
	tb.Helper()
	for i := range n {
		client := c.dial(tb, i%2 == 1)
		resp := client.Handshake("/")
		clients = append(clients, client)
		upstreams = append(upstreams, resp.Header.Get("X-Upstream"))
	}
	return clients, upstreams
}

// toldUpstream is a websocket_proxy directive that tells the client its upstream.
func toldUpstream(addresses string, options ...string) string {
	return proxyTo(addresses, append(options, "header_down X-Upstream {http.reverse_proxy.upstream.hostport}")...)
}

// TestReloadEvicts removes one of two upstreams. Its tunnels end, the others do
// not notice.
func TestReloadEvicts(t *testing.T) {
	t.Parallel()
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(toldUpstream(a.Addr+" "+b.Addr, evictions)))
	clients, upstreams := c.openClients(t, 40)
	c.reload(t, site(toldUpstream(b.Addr, evictions)))
	for i, client := range clients {
		if upstreams[i] == a.Addr {
			client.ExpectClose(1012)
			client.WriteFrame(testbed.NewClose(1012, ""))
			client.ExpectEOF()
		}
	}
	a.WaitOpen(t, 0)
	for i, client := range clients {
		if upstreams[i] == b.Addr {
			client.Echo("still here")
			client.CloseHandshake(1000)
		}
	}
	for _, line := range c.log.wait(t, 40, tunnelClosed) {
		want := "client_closed"
		if line.str("upstream") == a.Addr {
			want = "evicted"
		}
		if got := line.str("reason"); got != want {
			t.Errorf("a tunnel to %s ended with reason %s, want %s", line.str("upstream"), got, want)
		}
	}
}

// TestReloadsEvictNobodyWhoseUpstreamComesBack removes an upstream and adds it
// again at once.
func TestReloadsEvictNobodyWhoseUpstreamComesBack(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(toldUpstream(up.Addr, "evict_period 1h")))
	clients, _ := c.openClients(t, 20)
	c.reload(t, site("respond gone"))
	c.reload(t, site(toldUpstream(up.Addr, "evict_period 1s")))
	c.reload(t, site("respond /other ok\n"+toldUpstream(up.Addr)))
	for _, client := range clients {
		client.Echo("still here")
		client.CloseHandshake(1000)
	}
}

// TestReloadWithTemplates has upstreams whose addresses are expanded from the
// request.
func TestReloadWithTemplates(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	const template = "{http.request.uri.query.to}"
	c := startCaddy(t, site(proxyTo(template, evictions)))
	client := c.dial(t, false)
	client.Handshake("/?to=" + up.Addr)
	c.reload(t, site("respond /other ok\n"+proxyTo(template, evictions)))
	client.Echo("the template is the same")
	c.reload(t, site(proxyTo("{http.request.uri.query.other}", evictions)))
	client.ExpectClose(1012)
}

// TestEvictionOfDifficultTunnels removes an upstream with tunnels whose clients
// or upstreams do not do what they should.
func TestEvictionOfDifficultTunnels(t *testing.T) {
	t.Parallel()
	frame := string(testbed.NewFrame(testbed.Text, "not complete").Bytes(true))
	tests := map[string]struct {
		upstream testbed.Script
		client   func(*testbed.Client)
	}{
		"a client that never answers": {testbed.Echo, func(c *testbed.Client) { c.ExpectClose(1012) }},
		"a client inside a frame": {testbed.Echo, func(c *testbed.Client) {
			c.Send(frame[:5])
			c.ExpectClose(1012)
		}},
		"a client that does not read": {flood, func(*testbed.Client) {}},
		"an upstream inside a frame": {func(_ testing.TB, c *testbed.Conn) {
			c.Tolerate()
			c.AcceptHandshake()
			c.Send(string(testbed.NewFrame(testbed.Text, "not complete").Bytes(false)[:5]))
			c.Drain()
		}, func(*testbed.Client) {}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := testbed.NewUpstream(t, test.upstream)
			c := startCaddy(t, site(toldUpstream(up.Addr, evictions)))
			clients, _ := c.openClients(t, 4)
			c.reload(t, site("respond gone"))
			for _, client := range clients {
				test.client(client)
			}
			for _, line := range c.log.wait(t, len(clients), tunnelClosed) {
				if got := line.str("reason"); got != "evicted" {
					t.Errorf("a tunnel ended with reason %s, want evicted", got)
				}
			}
			up.WaitOpen(t, 0)
		})
	}
}

// flood is an upstream that sends more than any buffer on the way takes.
func flood(_ testing.TB, c *testbed.Conn) {
	c.Tolerate()
	c.AcceptHandshake()
	for payload := fmt.Sprintf("%01000000d", 0); ; {
		c.WriteFrame(testbed.NewFrame(testbed.Binary, payload))
	}
}

// TestUpstreamKilledDuringItsEviction kills a removed upstream, which is a
// process of its own, while its tunnels are being ended.
func TestUpstreamKilledDuringItsEviction(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	backend := startCaddy(t, site(proxyTo(up.Addr)))
	c := startCaddy(t, site(toldUpstream(backend.http, "evict_period 10s")))
	clients, _ := c.openClients(t, 50)
	c.reload(t, site("respond gone"))
	c.log.wait(t, 1, tunnelClosed)
	backend.signal(t, syscall.SIGKILL)
	c.log.wait(t, len(clients), tunnelClosed)
	if _, got := c.get(t, "/"); got != "gone" {
		t.Errorf("the site answers %q", got)
	}
}

// TestStopDuringAnEviction has the process exit while tunnels are being ended
// over an hour.
func TestStopDuringAnEviction(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(toldUpstream(up.Addr, "evict_period 1h")))
	clients, _ := c.openClients(t, 20)
	c.reload(t, site("respond gone"))
	c.signal(t, syscall.SIGTERM)
	for _, client := range clients {
		client.ExpectClose(1001)
	}
	c.expectExit(t)
}

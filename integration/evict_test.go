package integration

import (
	"fmt"
	"strings"
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
	before := len(c.listedTunnels(tb, ""))
	for i := range n {
		client := c.dial(tb, i%2 == 1)
		resp := client.Handshake("/")
		clients = append(clients, client)
		upstreams = append(upstreams, resp.Header.Get("X-Upstream"))
	}
	// A client is answered before its tunnel is there.
	eventually(tb, "all tunnels are open", func() bool { return len(c.listedTunnels(tb, "")) == before+n })
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
		want, by := "client_closed", ""
		if line.str("upstream") == a.Addr {
			want, by = "evicted", "reload"
		}
		if got := line.str("reason"); got != want || line.str("evicted_by") != by {
			t.Errorf("a tunnel to %s ended with reason %s, want %s by %q: %v", line.str("upstream"), got, want, by, line)
		}
	}
}

// TestReloadTellsWhatItRemoves has an operator look for what has become of an
// upstream.
func TestReloadTellsWhatItRemoves(t *testing.T) {
	t.Parallel()
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	config := func(addresses, more string) string {
		return site(toldUpstream(addresses, "name chat", "evict_period 12h") + "\n" + more)
	}
	c := startCaddy(t, config(a.Addr, ""))
	clients, _ := c.openClients(t, 2)
	reloads := func() []entry { return c.log.find(message("upstreams changed by a reload")) }
	c.reload(t, config(a.Addr, "respond /other ok"))
	if lines := reloads(); len(lines) > 0 {
		t.Errorf("nothing was changed, and logged is %v", lines)
	}
	c.reload(t, config(b.Addr, ""))
	line := c.log.waitOne(t, message("upstreams changed by a reload"))
	if got, want := fmt.Sprintf("%v %v %v", line["handler"], line["added"], line["removed"]),
		fmt.Sprintf("chat [%s] [%s]", b.Addr, a.Addr); got != want {
		t.Errorf("logged is %s, want %s", got, want)
	}
	c.waitState(t, a.Addr, "removed")
	c.waitState(t, b.Addr, "ready")
	if said := c.done(t, "ready", a.Addr); !strings.Contains(said, "is in no loaded configuration") ||
		strings.Contains(said, "gets new tunnels") {
		t.Errorf("ready says %q", said)
	}
	if said := c.done(t, "drain", a.Addr); !strings.Contains(said, "gets no newcomers, 2 open") {
		t.Errorf("drain says %q", said)
	}
	c.waitState(t, a.Addr, "drain")
	c.done(t, "ready", a.Addr)

	// A command ends the tunnels sooner, and the log says who.
	wait := leave(t, 1012, clients...)
	c.done(t, "evict", a.Addr, "--period", "0")
	wait()
	for _, line := range c.log.wait(t, 2, message("tunnel closed", "reason", "evicted")) {
		if by := line.str("evicted_by"); !strings.Contains(by, "@") {
			t.Errorf("the tunnel is evicted by %q, want a user and a machine", by)
		}
	}
	c.done(t, "ready", a.Addr)
	c.reload(t, site("respond gone"))
	eventually(t, "the reload that removes all is logged", func() bool { return len(reloads()) == 2 })
	if got := fmt.Sprint(reloads()[1]["removed"]); got != "["+b.Addr+"]" {
		t.Errorf("removed is %s", got)
	}
	c.stop(t)
	if lines := reloads(); len(lines) != 2 {
		t.Errorf("the end of the process is logged as %v", lines[2:])
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

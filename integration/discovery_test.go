package integration

import (
	"fmt"
	"net"
	"strconv"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// found is a websocket_proxy directive that finds its upstreams by SRV records.
func found(name string, dns *testbed.DNS, options ...string) string {
	return toldUpstream("", append(options,
		"dynamic srv "+name+" {\nrefresh 200ms\nresolvers "+dns.Addr+"\n}",
		"transport http {\nresolvers "+dns.Addr+"\n}")...)
}

func port(tb testing.TB, addr string) uint16 {
	tb.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		tb.Fatal(err)
	}
	return uint16(n)
}

// TestTunnelsFollowDNS changes the records of a name, has its server fail, and
// reloads with the same source and with another one.
func TestTunnelsFollowDNS(t *testing.T) {
	t.Parallel()
	const name, another, machine = "_ws._tcp.one.test.", "_ws._tcp.two.test.", "machine.test."
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	target := func(up *testbed.Upstream) string { return fmt.Sprintf("%s:%d", machine, port(t, up.Addr)) }
	dns := testbed.NewDNS(t)
	dns.SetA(machine, "127.0.0.1")
	dns.SetSRV(name, machine, port(t, a.Addr))
	c := startCaddy(t, site(found(name, dns, evictions)))
	open := func(want *testbed.Upstream) *testbed.Client {
		client := c.dial(t, false)
		if got := client.Handshake("/").Header.Get("X-Upstream"); got != target(want) {
			t.Errorf("the upstream is %s, want %s", got, target(want))
		}
		return client
	}
	first := open(a)
	dns.Fail(name, true)
	c.log.waitOne(t, message("upstream source fails; what it has found last stays"))
	first.Echo("still here")
	c.reload(t, site("respond /other ok\n"+found(name, dns, evictions)))
	second := open(a)
	dns.SetSRV(name, machine, port(t, b.Addr))
	first.Echo("still here")
	dns.Fail(name, false)
	for _, client := range []*testbed.Client{first, second} {
		client.ExpectClose(1012)
		client.WriteFrame(testbed.NewClose(1012, ""))
		client.ExpectEOF()
		client.Close()
	}
	third := open(b)
	a.WaitOpen(t, 0)
	dns.SetSRV(another, machine, port(t, b.Addr), port(t, a.Addr))
	c.reload(t, site(found(another, dns, evictions)))
	third.Echo("the address is there, too")
	dns.SetSRV(another, machine, port(t, a.Addr))
	third.ExpectClose(1012)
	third.Close()
	for _, line := range c.log.wait(t, 3, tunnelClosed) {
		if got := line.str("reason"); got != "evicted" {
			t.Errorf("a tunnel ended with reason %s, want evicted", got)
		}
	}
	eventually(t, "nothing is left", func() bool {
		list := c.listedUpstreams(t)
		u := list[target(a)]
		return len(list) == 1 && u.Configured && u.Source == "srv" && u.Tunnels == 0
	})
}

// TestValidationLooksNothingUp has `caddy validate` look at a site.
func TestValidationLooksNothingUp(t *testing.T) {
	t.Parallel()
	dns := testbed.NewDNS(t)
	c := prepareCaddy(t)
	cmd := c.command(t, site(found("_ws._tcp.test.", dns)), "validate", "--config", "-", "--adapter", "caddyfile")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := dns.Asked(); got > 0 {
		t.Errorf("the name server was asked %d times", got)
	}
}

package integration

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestCaddyWithoutDescriptors has anybody take all descriptors of the process by
// connections that say nothing: probes and handshakes fail for want of them, which must
// neither end living tunnels nor make upstreams fail.
func TestCaddyWithoutDescriptors(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site("respond /ok ok\n"+proxyTo(up.Addr, "health_check tcp", "health_interval 100ms", "on_unhealthy evict", "fail_duration 1m")))
	var tunnels []*testbed.Client
	for range 20 {
		tunnel := c.dial(t, false)
		tunnel.Handshake("/")
		tunnel.Echo("hello") // so that it has all descriptors that it needs
		tunnels = append(tunnels, tunnel)
	}
	// One that is known to the server already, as it can accept no other one soon.
	late := c.dial(t, false)
	late.Send("GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
	late.Body(late.Response())
	inUse := descriptors(t, c)
	limit := unix.Rlimit{Cur: uint64(inUse) + 10, Max: uint64(inUse) + 10}
	if err := unix.Prlimit(c.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	var idle []net.Conn
	for range 30 {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", c.http)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	line := c.log.waitOne(t, func(e entry) bool {
		return strings.HasPrefix(e.str("msg"), "connections to upstreams fail for want of resources here: ")
	})
	if !strings.Contains(line.str("msg"), "LimitNOFILE") {
		t.Errorf("the line does not say what to raise: %v", line)
	}
	for range 4 {
		late.Send(testbed.HandshakeRequest("/", late.Host))
		resp := late.Response()
		if resp.StatusCode != 503 {
			t.Fatalf("status %d, want 503", resp.StatusCode)
		}
		late.Body(resp)
	}
	for _, refused := range c.log.wait(t, 4, message("handshake refused")) {
		if refused.str("cause") != "exhausted" {
			t.Errorf("the line is %v, want the cause exhausted", refused)
		}
	}
	for _, conn := range idle {
		_ = conn.Close()
	}
	for _, tunnel := range tunnels {
		tunnel.Echo("still there")
	}
	if listed := c.listedUpstreams(t)[up.Addr]; c.isAvoided(t, up.Addr) || listed.Tunnels != 20 {
		t.Errorf("the upstream is %+v, want it as before", listed)
	}
	if n := len(c.log.find(message("upstream is unhealthy"))); n > 0 {
		t.Errorf("%d lines tell that the upstream is unhealthy", n)
	}
	eventually(t, "handshakes are accepted again", func() bool {
		late := c.dial(t, false)
		defer late.Close()
		late.Send(testbed.HandshakeRequest("/", late.Host))
		return late.Response().StatusCode == 101
	})
}

// descriptors counts those of a process.
func descriptors(t *testing.T, c *caddy) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(c.cmd.Process.Pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

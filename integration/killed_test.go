package integration

import (
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// visitAll makes n handshakes by several clients at a time, each of which has to
// succeed whatever becomes of the tunnel.
func (c *caddy) visitAll(t *testing.T, n int) {
	t.Helper()
	const clients = 4
	var all sync.WaitGroup
	for range clients {
		all.Add(1)
		testbed.Go(t, func(tb testing.TB) {
			tb.Helper()
			defer all.Done()
			for range n / clients {
				client := c.dial(tb, false)
				client.Tolerate()
				client.Send(testbed.HandshakeRequest("/", client.Host))
				if got := client.Response().StatusCode; got != http.StatusSwitchingProtocols {
					tb.Errorf("a client got status %d, want 101", got)
				}
				client.Close()
			}
		})
	}
	all.Wait()
}

// TestBackendKilledUnderLoad kills a backend under handshakes and starts it
// again: no client notices, and it gets its share of the tunnels back.
func TestBackendKilledUnderLoad(t *testing.T) {
	t.Parallel()
	behind := site(proxyTo(testbed.NewUpstream(t, testbed.Echo).Addr))
	backend := startCaddy(t, behind)
	addrs := []string{
		testbed.NewUpstream(t, testbed.Echo).Addr, testbed.NewUpstream(t, testbed.Echo).Addr, backend.http,
	}
	c := startCaddy(t, site(proxyTo("", "to "+addrs[0]+" "+addrs[1]+" "+addrs[2], "fail_duration 2s", "slow_start 1s")))
	c.visitAll(t, 100)
	var loaded sync.WaitGroup
	loaded.Go(func() { c.visitAll(t, 400) })
	backend.signal(t, syscall.SIGKILL)
	loaded.Wait()
	c.log.wait(t, 1, message("upstream fails; it gets tunnels only if no other one can", "upstream", backend.http))
	if got := c.listedUpstreams(t)[backend.http].Tunnels; got != 0 {
		t.Errorf("%d tunnels to a process that is dead", got)
	}

	again := prepareCaddy(t)
	again.http = backend.http
	again.run(t, behind)
	eventually(t, "the tunnels are level", func() bool {
		client := c.dial(t, false)
		client.Handshake("/")
		counts := c.tunnels(t, addrs)
		return slices.Max(counts)-slices.Min(counts) <= 1 && slices.Min(counts) >= 10
	})
}

package integration

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestStop ends the process under open tunnels, in every way that there is:
// those of the configuration that is loaded, and those of one that is not any
// more. Each client is told, and each tunnel has its line.
func TestStop(t *testing.T) {
	t.Parallel()
	ways := map[string]func(t *testing.T, c *caddy){
		"SIGTERM": func(t *testing.T, c *caddy) { c.signal(t, syscall.SIGTERM) },
		"SIGINT":  func(t *testing.T, c *caddy) { c.signal(t, syscall.SIGINT) },
		"caddy stop": func(t *testing.T, c *caddy) {
			if code, _, stderr := c.subcommand(t, "stop", "--address", c.admin); code != 0 {
				t.Fatalf("caddy stop: exit code %d: %s", code, stderr)
			}
		},
	}
	for name, stop := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := testbed.NewUpstream(t, testbed.Echo)
			c := startCaddy(t, site(proxyTo(up.Addr)))
			before, _ := c.openClients(t, 4)
			c.reload(t, site("respond /other ok\n"+proxyTo(up.Addr)))
			after, _ := c.openClients(t, 4)
			stop(t, c)
			for _, client := range append(before, after...) {
				client.ExpectClose(1001)
				client.WriteFrame(testbed.NewClose(1001, ""))
				client.ExpectEOF()
			}
			c.expectExit(t)
			up.WaitOpen(t, 0)
			expectShutdown(t, c, 8)
		})
	}
}

// expectShutdown expects the lines of n tunnels that the exit of the process has
// ended.
func expectShutdown(t *testing.T, c *caddy, n int) {
	t.Helper()
	for _, line := range c.log.wait(t, n, tunnelClosed) {
		if got := line.str("reason"); got != "shutdown" {
			t.Errorf("a tunnel ended with reason %s, want shutdown", got)
		}
	}
}

// TestStopWithStreams ends the process under tunnels of HTTP/2 and HTTP/3, which
// without us it would wait for as long as they are open: also those of a
// configuration that is not loaded any more, where nothing is left of us in the
// one that is.
func TestStopWithStreams(t *testing.T) {
	t.Parallel()
	for name, reload := range map[string]bool{"loaded": false, "not loaded any more": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := testbed.NewUpstream(t, testbed.Echo)
			c := startStreaming(t, proxyTo(up.Addr, "evict_period off"))
			var clients []*streamClient
			for _, connect := range connectors {
				client := openWebSocket(t, connect(t, c), webSocket("/"))
				client.echo(t, "hello")
				clients = append(clients, client)
			}
			if reload {
				c.reload(t, site("respond gone", streaming))
			}
			c.signal(t, syscall.SIGTERM)
			for _, client := range clients {
				client.expect(t, testbed.NewClose(1001, ""))
			}
			expectShutdown(t, c, len(clients))
			c.expectExit(t)
			up.WaitOpen(t, 0)
		})
	}
}

// TestStopWithStuckPeers has peers that neither read nor answer.
func TestStopWithStuckPeers(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, flood)
	c := startStreaming(t, proxyTo(up.Addr))
	c.openClients(t, 20)
	var streams []*streamClient
	for _, connect := range connectors {
		streams = append(streams, openWebSocket(t, connect(t, c), webSocket("/")))
	}
	c.signal(t, syscall.SIGTERM)
	expectShutdown(t, c, 20+len(streams))
	c.expectExit(t)
	up.WaitOpen(t, 0)
}

// TestStopWithHandshakes has handshakes under way to an upstream that does not
// answer, and that nothing limits, also where no tunnel is open.
func TestStopWithHandshakes(t *testing.T) {
	t.Parallel()
	for _, tunnels := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d tunnels", tunnels), func(t *testing.T) {
			t.Parallel()
			up, silent := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, nil)
			c := startStreaming(t, "handle /silent {\n"+proxyTo(silent.Addr, "handshake_timeout off")+"\n}\n"+proxyTo(up.Addr))
			c.openClients(t, tunnels)
			waiting := c.dial(t, false)
			waiting.Send(testbed.HandshakeRequest("/silent", c.http))
			silent.Next(t).ReadRequest()
			var streams []stream
			for _, connect := range connectors {
				streams = append(streams, connect(t, c)(t, webSocket("/silent")))
				silent.Next(t).ReadRequest()
			}
			c.signal(t, syscall.SIGTERM)
			if resp := waiting.Response(); resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("the answer is %s, want 503", resp.Status)
			}
			for _, s := range streams {
				if status, _ := s.response(t); status != http.StatusServiceUnavailable {
					t.Errorf("the answer to a stream is %d, want 503", status)
				}
			}
			expectShutdown(t, c, tunnels)
			c.expectExit(t)
			up.WaitOpen(t, 0)
		})
	}
}

// TestStopDuringReloads has the process exit while configurations come and go.
func TestStopDuringReloads(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	config := func(version int) string {
		return site(fmt.Sprintf("header X-Version %d\n%s", version, proxyTo(up.Addr)))
	}
	c := startCaddy(t, config(0))
	clients, _ := c.openClients(t, 20)
	reloaded, reloading := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(reloading)
		for version := 1; ; version++ {
			if _, _, err := c.adminRequest(t, http.MethodPost, "/load", config(version)); err != nil {
				return // it has stopped to answer
			}
			select {
			case reloaded <- struct{}{}:
			default:
			}
		}
	}()
	within(t, "a reload", reloaded)
	c.signal(t, syscall.SIGTERM)
	for _, client := range clients {
		client.ExpectClose(1001)
	}
	c.expectExit(t)
	within(t, "the reloads have ended", reloading)
	expectShutdown(t, c, len(clients))
}

// TestSecondInterrupt ends the process at once.
func TestSecondInterrupt(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo(up.Addr, "shutdown_period 1h")))
	clients, _ := c.openClients(t, 2)
	c.signal(t, syscall.SIGINT)
	for _, client := range clients {
		client.ExpectClose(1001) // and does not answer, so the process waits
	}
	c.signal(t, syscall.SIGINT)
	within(t, "caddy has ended", c.exited)
}

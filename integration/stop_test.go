package integration

import (
	"syscall"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestStop ends the process under open tunnels: those of the configuration that
// is loaded, and those of one that is not any more.
func TestStop(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo(up.Addr)))
	var clients []*testbed.Client
	connect := func() {
		for _, secure := range []bool{false, true} {
			client := c.dial(t, secure)
			client.Handshake("/")
			client.Echo("hello")
			clients = append(clients, client)
		}
	}
	connect()
	c.reload(t, site("respond /other ok\n"+proxyTo(up.Addr)))
	connect()

	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("stopping: %v", err)
	}
	within(t, "caddy has ended", c.exited)
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("caddy ended with code %d", code)
	}
	for _, client := range clients {
		client.Drain()
	}
	up.WaitOpen(t, 0)
}

package integration

import (
	"bufio"
	"strconv"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// startSocketIO starts a Socket.IO server and returns its address. It may not
// refuse anything.
func startSocketIO(tb testing.TB) string {
	tb.Helper()
	return startNodeServer(tb, "socketio-server.js")
}

// startNodeServer starts a server that prints its address, and what it refuses.
func startNodeServer(tb testing.TB, program string) string {
	tb.Helper()
	ready := make(chan string, 1)
	runNode(tb, func(stdout *bufio.Scanner) {
		if stdout.Scan() {
			ready <- stdout.Text()
		}
		for stdout.Scan() {
			tb.Errorf("%s has refused a request: %s", program, stdout.Text())
		}
	}, program)
	return within(tb, program+" listens", ready)
}

// TestSocketIO has clients that begin with polling and then upgrade to a
// WebSocket, which only the server can accept that they have polled.
func TestSocketIO(t *testing.T) {
	t.Parallel()
	needNode(t, "socket.io", "socket.io-client")
	for name, config := range map[string]func(addrs string) string{
		"a list for each": func(addrs string) string { return bothTo(addrs, "cookie") },
		"one list": func(addrs string) string {
			return proxyTo(addrs, "name app", "lb_policy cookie") +
				"\nreverse_proxy {\ndynamic websocket_proxy app\nlb_policy cookie\nlb_retries 2\n}"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := startSocketIO(t), startSocketIO(t)
			c := startCaddy(t, site(config(one+" "+two)))
			for scheme, url := range map[string]string{"ws": "http://" + c.http, "wss": "https://" + c.https} {
				t.Run(scheme, func(t *testing.T) { testSocketIO(t, c, url, one, two) })
			}
			if refused := c.log.find(message("handshake refused")); len(refused) > 0 {
				t.Errorf("%d handshakes were refused: %v", len(refused), refused[0])
			}
		})
	}
}

func testSocketIO(t *testing.T, c *caddy, url, one, two string) {
	const clients = 30
	before := len(c.log.find(tunnelClosed))
	node(t, []string{"NODE_EXTRA_CA_CERTS=" + c.certs.CAFile}, "socketio-client.js", url, strconv.Itoa(clients))
	// That they all come to the same one happens once in 10^8 runs.
	used := make(map[string]int)
	for _, line := range c.log.wait(t, before+clients, tunnelClosed)[before:] {
		used[line.str("upstream")]++
	}
	if used[one] == 0 || used[two] == 0 || used[one]+used[two] != clients {
		t.Errorf("the upstreams had %v tunnels, want %d at both together", used, clients)
	}
}

// TestSocketIOInABrowser has a browser keep the cookie, from requests and from
// WebSockets.
func TestSocketIOInABrowser(t *testing.T) {
	t.Parallel()
	needNode(t, "socket.io", "playwright-core")
	browser := testbed.Program(t, "chromium")
	one, two := startSocketIO(t), startSocketIO(t)
	c := startCaddy(t, site(bothTo(one+" "+two, "cookie")))
	for _, url := range []string{"http://" + c.http, "https://" + c.https} {
		node(t, nil, "socketio-page.js", browser, url)
	}
}

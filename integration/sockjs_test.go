package integration

import (
	"strconv"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestSockJSInABrowser has visitors use SockJS over WebSockets, and as a browser does it that
// can open none: the session is one of requests then, which only one server knows.
func TestSockJSInABrowser(t *testing.T) {
	t.Parallel()
	needNode(t, "sockjs", "sockjs-client", "playwright-core")
	browser := testbed.Program(t, "chromium")
	const visitors = 6
	one, two := startNodeServer(t, "sockjs-server.js"), startNodeServer(t, "sockjs-server.js")
	c := startCaddy(t, site(proxyTo(one+" "+two, "name app", "lb_policy cookie", "sticky_session path */info")+
		"\nreverse_proxy {\ndynamic websocket_proxy app\nlb_policy websocket_proxy app\nlb_retries 2\n}"))
	for i, url := range []string{"http://" + c.http, "https://" + c.https} {
		node(t, nil, "sockjs-page.js", browser, url, strconv.Itoa(visitors))
		used := make(map[string]int)
		for _, line := range c.log.wait(t, (i+1)*visitors, tunnelClosed)[i*visitors:] {
			used[line.str("upstream")]++
		}
		if used[one] == 0 || used[two] == 0 || used[one]+used[two] != visitors {
			t.Errorf("the upstreams had %v tunnels, want %d at both together", used, visitors)
		}
	}
	if refused := c.log.find(message("handshake refused")); len(refused) > 0 {
		t.Errorf("%d handshakes were refused: %v", len(refused), refused[0])
	}
}

package integration

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// dashboard is a page behind a login by alice, whose password is secret.
const dashboard = `handle_path /status* {
	basic_auth {
		alice $2a$04$bK22PbioIw0smDvTFHUSxu./e/9rN6iKyIioJvwFsBvhSK/92x2TW
	}
	websocket_dashboard actions
}
`

// TestDashboardInABrowser has operators use the page in a real browser, while others
// have it wrong, or mean harm.
func TestDashboardInABrowser(t *testing.T) {
	needNode(t, "playwright-core")
	browser := testbed.Program(t, "chromium")
	one, two := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html><title>else</title><body>"))
	}))
	t.Cleanup(stranger.Close)
	c := startCaddy(t, site(dashboard+proxyTo(one.Addr+" "+two.Addr, "name chat", "label room {http.request.uri.query.room}")))
	dial := func(room string) *testbed.Client {
		client := c.dial(t, false)
		client.Handshake("/?room=" + url.QueryEscape(room))
		return client
	}
	rooms := []string{"<img src=x onerror=alert(1)>", "quiet", "<script>alert(2)</script>", "\u202e\x1b[31m"}
	clients := make(map[string][]*testbed.Client)
	for _, room := range rooms {
		client := dial(room)
		at := one.Addr
		if len(clients[one.Addr]) > len(clients[two.Addr]) {
			at = two.Addr
		}
		clients[at] = append(clients[at], client)
	}
	eventually(t, "both upstreams have tunnels", func() bool {
		all := c.listedUpstreams(t)
		return all[one.Addr].Tunnels == 2 && all[two.Addr].Tunnels == 2
	})
	said := make(chan string)
	runNode(t, func(out *bufio.Scanner) {
		defer close(said)
		for out.Scan() {
			said <- out.Text()
		}
	}, "dashboard.js", browser, c.pageURL(), "http://"+c.admin, stranger.URL, one.Addr, two.Addr)
	for word := range said {
		switch {
		case word == "leave":
			for _, client := range append(clients[one.Addr], clients[two.Addr]...) {
				client.Close()
			}
		case word == "come":
			for range 5 {
				dial("late")
			}
		case word == "done":
			return
		case strings.HasPrefix(word, "failed"):
			t.Fatal(word)
		}
	}
	t.Error("the browser's program has ended")
}

// pageURL is where the dashboard is.
func (c *caddy) pageURL() string { return "http://" + c.http + "/status/" }

func TestDashboardWarnsWithoutALoginAndRefusesOtherNames(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, site("websocket_dashboard /status*"))
	const warning = "nothing in front of the dashboard seems to authenticate"
	eventually(t, "the warning is logged", func() bool { return strings.Contains(c.log.String(), warning) })
	if status, body := c.get(t, "/status/summary"); status != http.StatusOK || !strings.Contains(body, `"level":"good"`) {
		t.Errorf("the summary is %d %s", status, body)
	}
	if status, body := c.get(t, "/status"); status != http.StatusOK || !strings.Contains(body, "<!doctype html>") {
		t.Errorf("without the slash there is %d %s", status, body)
	}
	n := strings.Count(c.log.String(), warning)
	c.reload(t, site(dashboard))
	if status, _ := c.get(t, "/status/"); status != http.StatusUnauthorized {
		t.Errorf("without a login there is %d", status)
	}
	if got := strings.Count(c.log.String(), warning); got != n {
		t.Errorf("%d warnings, though there is a login", got-n)
	}
}

package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	gorilla "github.com/gorilla/websocket"
)

func addresses(chats []*chatServer) string {
	var addrs []string
	for _, s := range chats {
		addrs = append(addrs, s.addr)
	}
	return strings.Join(addrs, " ")
}

func startChatServers(tb testing.TB, n int) []*chatServer {
	tb.Helper()
	chats := make([]*chatServer, n)
	for i := range chats {
		chats[i] = startChat(tb)
	}
	return chats
}

// waitOpen waits until the servers have so many connections.
func waitOpen(tb testing.TB, chats []*chatServer, want ...int64) {
	tb.Helper()
	got := func() (got []int64) {
		for _, s := range chats {
			got = append(got, s.open.Load())
		}
		return got
	}
	eventually(tb, fmt.Sprintf("the servers have %v connections each", want), func() bool {
		return fmt.Sprint(got()) == fmt.Sprint(want)
	})
}

// TestReloads changes the configuration under tunnels that are busy both ways.
// None may end, and no message may be lost or change places.
func TestReloads(t *testing.T) {
	t.Parallel()
	const (
		tunnels = 200
		reloads = 10
	)
	upstreams := startChatServers(t, 4)
	config := func(version int) string {
		return site(fmt.Sprintf(`
			respond /version "%d"
			header X-Version "%d"
			@odd path_regexp version%d$
			respond @odd 404
			%s`, version, version, version, proxyTo(addresses(upstreams), "header_down X-Upstream {http.reverse_proxy.upstream.hostport}")))
	}
	c := startCaddy(t, config(0))
	chats := c.startChats(t, tunnels)
	waitOpen(t, upstreams, 50, 50, 50, 50)
	progress(t, chats)

	for version := 1; version <= reloads; version++ {
		c.reload(t, config(version))
		if _, got := c.get(t, "/version"); got != fmt.Sprint(version) {
			t.Fatalf("after reload %d the site is of version %s", version, got)
		}
	}
	progress(t, chats)
	waitOpen(t, upstreams, 50, 50, 50, 50)

	// The new configuration still counts the tunnels of the old ones: what is
	// free is at one upstream only, so all new tunnels go there.
	var leaving, staying []*chatClient
	for _, chat := range chats {
		if chat.resp.Header.Get("X-Upstream") == upstreams[2].addr {
			leaving = append(leaving, chat)
		} else {
			staying = append(staying, chat)
		}
	}
	finish(t, leaving)
	waitOpen(t, upstreams, 50, 50, 0, 50)
	c.log.wait(t, len(leaving), tunnelClosed)
	coming := c.startChats(t, len(leaving))
	waitOpen(t, upstreams, 50, 50, 50, 50)

	chats = append(staying, coming...)
	progress(t, chats)
	finish(t, chats)
	for _, line := range c.log.wait(t, tunnels+len(coming), tunnelClosed) {
		checkClosedBy(t, line, "client", gorilla.CloseNormalClosure)
	}
}

// TestReloadKeepsTunnelsOfRemovedUpstream reloads a configuration in which an
// upstream is gone that may keep its tunnels: these go on, new ones go elsewhere.
func TestReloadKeepsTunnelsOfRemovedUpstream(t *testing.T) {
	t.Parallel()
	upstreams := startChatServers(t, 2)
	c := startCaddy(t, site(proxyTo(addresses(upstreams), "evict_period off")))
	chats := c.startChats(t, 8)
	waitOpen(t, upstreams, 4, 4)

	c.reload(t, site(proxyTo(upstreams[1].addr)))
	progress(t, chats)
	chats = append(chats, c.startChats(t, 8)...)
	waitOpen(t, upstreams, 4, 12)
	progress(t, chats)

	// With the upstream back, its tunnels count again.
	c.reload(t, site(proxyTo(addresses(upstreams))))
	chats = append(chats, c.startChats(t, 8)...)
	waitOpen(t, upstreams, 12, 12)
	finish(t, chats)
}

// TestReloadWithoutHandler reloads a configuration that has no websocket_proxy
// at all. The log line of what was open then goes to the log that is open now.
func TestReloadWithoutHandler(t *testing.T) {
	t.Parallel()
	upstreams := startChatServers(t, 1)
	c := startCaddy(t, site(proxyTo(addresses(upstreams), "evict_period off")))
	chats := c.startChats(t, 4)
	c.reload(t, site("respond no"))
	progress(t, chats)
	finish(t, chats)
	for _, line := range c.log.wait(t, len(chats), tunnelClosed) {
		checkClosedBy(t, line, "client", gorilla.CloseNormalClosure)
	}
}

// TestFailedReload loads configurations that fail at different stages.
func TestFailedReload(t *testing.T) {
	t.Parallel()
	upstreams := startChatServers(t, 2)
	good := site("respond /health fine\n" + proxyTo(addresses(upstreams)))
	c := startCaddy(t, good)
	chats := c.startChats(t, 4)
	waitOpen(t, upstreams, 2, 2)

	for name, bad := range map[string]struct{ caddyfile, message string }{
		"adapting": {
			site(proxyTo(upstreams[0].addr, "idle_timeout soon")),
			"idle_timeout",
		},
		"provisioning": {
			site(proxyTo(upstreams[0].addr, "origins example.com/path")),
			"is not an origin",
		},
		"provisioning another handler": {
			site(proxyTo(upstreams[0].addr) + `
				reverse_proxy 127.0.0.1:1 {
					transport http {
						tls_trust_pool file /does/not/exist
					}
				}`),
			"/does/not/exist",
		},
		"listening": { // at an address of no machine (RFC 5737)
			site(proxyTo(upstreams[0].addr)) + "\nhttp://:10000 {\nbind 192.0.2.1\nrespond no\n}",
			"listen",
		},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer, err := c.adminRequest(t, http.MethodPost, "/load", bad.caddyfile)
			if err != nil || status != http.StatusBadRequest && status != http.StatusInternalServerError {
				t.Fatalf("loading a bad configuration: status %d, %v: %s", status, err, answer)
			}
			if !strings.Contains(answer, bad.message) {
				t.Errorf("the answer is %q, without %q", answer, bad.message)
			}
			progress(t, chats)
			if status, body := c.get(t, "/health"); status != http.StatusOK || body != "fine" {
				t.Errorf("the site answers %d %q", status, body)
			}
		})
	}

	chats = append(chats, c.startChats(t, 4)...)
	waitOpen(t, upstreams, 4, 4)
	progress(t, chats)
	finish(t, chats)
}

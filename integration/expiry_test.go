package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// expiringSite has tunnels that expire as the query says, and a way to prolong them.
func expiringSite(up string) string {
	const user, exp = "{http.request.uri.query.user}", "{http.request.uri.query.exp}"
	return `websocket_renew /renew {
		label user ` + user + `
		expires ` + exp + `
		max 1h
	}
	respond /renew "{http.websocket_renew.tunnels}"
	` + proxyTo(up, "label user "+user, "expires "+exp, "on_expired close", "expired_code 4001", "subprotocols b a")
}

func TestHandshakesThatAreTooLateAreClosedOverStreams(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, func(testing.TB, *testbed.Conn) { t.Error("the upstream was asked") })
	c := startStreaming(t, expiringSite(up.Addr))
	eachConnector(t, c, func(t *testing.T, open opener) {
		for name, answers := range map[string]bool{"it answers": true, "it says nothing": false} {
			t.Run(name, func(t *testing.T) {
				client := openWebSocket(t, open, webSocket("/?exp=1",
					[2]string{"sec-websocket-protocol", "c, a, b"}, [2]string{"sec-websocket-extensions", "permessage-deflate"}))
				if client.header.Get("Sec-WebSocket-Protocol") != "a" || client.header.Get("Sec-WebSocket-Extensions") != "" {
					t.Errorf("the answer has %v", client.header)
				}
				client.expect(t, testbed.NewClose(4001, "expired"))
				if answers {
					client.send(t, testbed.NewClose(4001, ""))
				}
				client.expectEnd(t)
			})
		}
	})
	for _, line := range c.log.wait(t, 2*len(connectors), message("handshake refused")) {
		if line.str("cause") != "expired" {
			t.Errorf("the line is %v", line)
		}
	}
}

func TestTunnelsAreRenewed(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(expiringSite(up.Addr)))
	open := func(user string) *testbed.Client {
		client := c.dial(t, true)
		client.Handshake("/?exp=3s&user=" + user)
		return client
	}
	alice, bob, carol := open("alice"), open("bob"), open("carol")
	if status, body := c.get(t, "/renew?user=alice&exp=30m"); status != http.StatusOK || body != "1" {
		t.Errorf("the answer is %d %q, want the number of tunnels", status, body)
	}
	if said := c.done(t, "renew", "--label", "user=bob", "--expires", "1h"); !strings.Contains(said, "renewed 1 tunnel") {
		t.Errorf("the command says %s", said)
	}
	if code, _, stderr := c.websockets(t, "renew", "--label", "user=bob", "--expires", "soon"); code != 1 || !strings.Contains(stderr, "--expires") {
		t.Errorf("a time that is none: %d %s", code, stderr)
	}
	carol.ExpectClose(4001)
	// A reload changes nothing.
	c.reload(t, site(proxyTo(up.Addr, "expires 2s")))
	alice.Echo("still there")
	bob.Echo("still there")
}

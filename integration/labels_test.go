package integration

import (
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// labelledSite is a site whose tunnels have the user that the query names.
func labelledSite(up string, options ...string) string {
	return proxyTo(up, append([]string{"label user {http.request.uri.query.user}"}, options...)...)
}

type labelledTunnel struct {
	ID     string
	Labels map[string]string
}

func TestLabelsReachOperators(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(labelledSite(up.Addr), `log default {
		format filter {
			fields {
				labels>user hash
			}
		}
	}`))
	open := func(user string) (*testbed.Client, string) {
		client := c.dial(t, false)
		return client, tunnelID(client.Handshake("/?user=" + user))
	}
	alice, id := open("alice")
	bob, _ := open("bob%1b[2J%e2%80%ae")

	rows := c.done(t, "list", "--label", "user=alice")
	if strings.Count(rows, "\n") != 2 || !strings.Contains(rows, id) || !strings.Contains(rows, "user=alice") {
		t.Errorf("the tunnels of alice are listed as\n%s", rows)
	}
	if rows = c.done(t, "list", "--tunnels"); !strings.Contains(rows, `user=bob\x1b[2J\u202e`) || strings.Contains(rows, "\x1b") {
		t.Errorf("the tunnels are listed as %q", rows)
	}
	type tunnels struct{ Tunnels []labelledTunnel }
	if got := decode[tunnels](t, c.done(t, "list", "--json", "--label", "user=alice")).Tunnels; len(got) != 1 || got[0].Labels["user"] != "alice" {
		t.Errorf("as JSON the tunnels of alice are %+v", got)
	}
	if code, _, stderr := c.subcommand(t, "websockets", "--address", c.admin, "list", "--label", "alice"); code != 1 ||
		!strings.Contains(stderr, "--label is a name and a value, such as user=alice") {
		t.Errorf("a label without a name: %d %s", code, stderr)
	}

	if said := c.done(t, "close", "--label", "user=alice", "--code", "4003", "--reason", "banned"); !strings.Contains(said, "closing 1 tunnel") {
		t.Errorf("the command says %s", said)
	}
	if reason := alice.ExpectClose(4003); reason != "banned" {
		t.Errorf("the Close says %q", reason)
	}
	alice.WriteFrame(testbed.NewClose(4003, ""))
	alice.ExpectEOF()
	bob.Echo("still there")
	line := c.log.waitOne(t, message("tunnel closed", "tunnel", id))
	labels, _ := line["labels"].(map[string]any)
	if hashed, _ := labels["user"].(string); hashed == "" || hashed == "alice" || len(labels) != 1 {
		t.Errorf("with a filter that hashes labels>user the line has %v", labels)
	}
}

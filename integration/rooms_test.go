package integration

import (
	"fmt"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestRoomsMeetAcrossNodes: processes that know nothing of each other lead the members of a
// room to the same upstream.
func TestRoomsMeetAcrossNodes(t *testing.T) {
	t.Parallel()
	dials := ""
	for range 4 {
		dials += testbed.NewUpstream(t, testbed.Echo).Addr + " "
	}
	config := site(proxyTo(dials, "lb_policy hash {query.room} balance 125", "header_down X-Upstream {upstream_hostport}"))
	seen := make(map[string]bool)
	var first []string
	for node := range 3 {
		c := startCaddy(t, config)
		for room := range 20 {
			client := testbed.Dial(t, c.http)
			at := client.Handshake(fmt.Sprint("/?room=", room)).Header.Get("X-Upstream")
			defer client.Close()
			if node == 0 {
				first = append(first, at)
			}
			if at == "" || at != first[room] {
				t.Errorf("room %d is at %q of node %d, and at %q of the first", room, at, node, first[room])
			}
			seen[at] = true
		}
	}
	if len(seen) < 3 {
		t.Errorf("all rooms are at %v", seen)
	}
}

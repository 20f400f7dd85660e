package integration

import (
	"fmt"
	"strings"
	"sync"
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

// rooms are clients that stay in rooms.
type rooms struct {
	mu sync.Mutex // guards what follows
	at []string   // where each client is; "": nowhere, or on its way
	of []int      // its room
}

// fill has clients come to a room, half of them over TLS, and come back when they are told
// to, until the test ends.
func (r *rooms) fill(tb testing.TB, c *caddy, room, members int) {
	tb.Helper()
	keep := c.keeper(tb)
	for i := range members {
		r.mu.Lock()
		who := len(r.at)
		r.at, r.of = append(r.at, ""), append(r.of, room)
		r.mu.Unlock()
		keep(c.url(schemes[i%2], fmt.Sprint("/?room=", room)), func(upstream string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.at[who] = upstream
		})
	}
}

// places returns how many members each room has at each upstream, and how many are nowhere.
func (r *rooms) places() (all map[int]map[string]int, nowhere int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all = make(map[int]map[string]int)
	for i, at := range r.at {
		if at == "" {
			nowhere++
			continue
		}
		room := all[r.of[i]]
		if room == nil {
			room = make(map[string]int)
			all[r.of[i]] = room
		}
		room[at]++
	}
	return all, nowhere
}

// TestRebalancingMovesRooms adds an upstream to two that have many small rooms, and one that
// is too big for one of them.
func TestRebalancingMovesRooms(t *testing.T) {
	t.Parallel()
	// A room of up to a quarter of an upstream's share is not divided.
	const big, bigRoom, members, small = 0, 80, 2, 150
	var addrs []string
	for range 3 {
		addrs = append(addrs, testbed.NewUpstream(t, testbed.Echo).Addr)
	}
	config := func(n int) string {
		return site(proxyTo(strings.Join(addrs[:n], " "), "lb_policy hash {query.room} balance 125",
			"rebalance 25% 1s", "header_down X-Upstream {upstream_hostport}"))
	}
	c := startCaddy(t, config(2))
	var r rooms
	r.fill(t, c, big, bigRoom)
	for room := range small {
		r.fill(t, c, room+1, members)
	}
	whole := func() bool {
		places, nowhere := r.places()
		delete(places, big)
		for _, at := range places {
			if nowhere > 0 || len(at) > 1 {
				return false
			}
		}
		return nowhere == 0
	}
	eventually(t, "all clients are in their rooms", whole)

	// For how many rooms the one that comes is the first is chance: about a third. A third of
	// its share is more than what a first step closes, and fewer rooms than that come once in
	// a million runs. The others keep no more than their share and 64.
	c.reload(t, config(3))
	share := (bigRoom + small*members) / 3
	eventually(t, "the one that has come has rooms, and no small one is split", func() bool {
		if c.isRebalancing() || !whole() {
			return false
		}
		counts := c.tunnels(t, addrs)
		return counts[2] >= share/3 && max(counts[0], counts[1], counts[2]) <= share+64
	})
	for _, line := range c.log.find(tunnelClosed) {
		if line.str("reason") != "rebalanced" || line.num("close_code") != 1012 || line.str("upstream") == addrs[2] {
			t.Errorf("a tunnel was closed in another way: %v", line)
		}
	}
	if places, _ := r.places(); len(places[big]) < 2 {
		t.Errorf("the big room is at %v, want what is too much at another one", places[big])
	}
	if steps := c.log.find(message("rebalancing")); len(steps) < 2 {
		t.Errorf("the steps were %v, want two and more", steps)
	}
}

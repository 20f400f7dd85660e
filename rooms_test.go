package websocketproxy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// withRooms has a handler go by the room in the query.
func withRooms(h *Handler, more string) *Handler {
	h.LoadBalancing = &LoadBalancing{SelectionPolicyRaw: json.RawMessage(
		`{"policy": "hash", "key": "{http.request.uri.query.room}"` + more + `}`)}
	return h
}

// join opens a tunnel for a member of each room, and returns which upstreams these come to.
func join(tb testing.TB, p *testProxy, rooms int) (at []string) {
	tb.Helper()
	for room := range rooms {
		c := testbed.Dial(tb, p.Addr)
		at = append(at, c.Handshake(fmt.Sprint("/?room=", room)).Header.Get("X-Upstream"))
		tb.Cleanup(func() {
			c.CloseHandshake(1000)
			c.Close()
		})
	}
	return at
}

func addresses(ups []*testbed.Upstream) (all []string) {
	for _, up := range ups {
		all = append(all, up.Addr)
	}
	return all
}

func threeUpstreams(tb testing.TB) []*testbed.Upstream {
	tb.Helper()
	return []*testbed.Upstream{
		testbed.NewUpstream(tb, testbed.Echo), testbed.NewUpstream(tb, testbed.Echo), testbed.NewUpstream(tb, testbed.Echo),
	}
}

// TestRoomMeetsAtOneUpstream: at two handlers that know nothing of each other too.
func TestRoomMeetsAtOneUpstream(t *testing.T) {
	for _, more := range []string{``, `, "balance": 125`} {
		t.Run(more, func(t *testing.T) {
			t.Cleanup(func() { expectNothingHeld(t) })
			all := addresses(threeUpstreams(t))
			here := withRooms(tellsUpstream(nil, all...), more)
			slices.Reverse(all)
			there := withRooms(tellsUpstream(nil, all...), more)
			here.Name, there.Name = "here", "there"
			load(t, here)
			load(t, there)
			p := serve(t, here)
			first := join(t, p, 30)
			if got := join(t, p, 30); !slices.Equal(got, first) {
				t.Errorf("the first members of rooms are at\n%v, the others at\n%v", first, got)
			}
			if got := join(t, serve(t, there), 30); !slices.Equal(got, first) {
				t.Errorf("rooms are here at\n%v, there at\n%v", first, got)
			}
			seen := make(map[string]bool)
			for _, one := range first {
				seen[one] = true
			}
			if len(seen) != 3 {
				t.Errorf("30 rooms are all at %v", slices.Collect(maps.Keys(seen)))
			}
		})
	}
}

// TestRoomsStayWholeOverAReload: with an upstream more, which gets rooms only when they have
// nobody elsewhere.
func TestRoomsStayWholeOverAReload(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	all := addresses(threeUpstreams(t))
	before := withRooms(tellsUpstream(nil, all[:2]...), `, "balance": 125`)
	unload := load(t, before)
	first := join(t, serve(t, before), 40)
	after := withRooms(tellsUpstream(nil, all...), `, "balance": 150`)
	load(t, after)
	unload()
	if got := join(t, serve(t, after), 40); !slices.Equal(got, first) {
		t.Errorf("the first members of rooms are at\n%v, those after the reload at\n%v", first, got)
	}
	alone := withRooms(tellsUpstream(nil, all...), `, "balance": 125`)
	alone.Name = "with rooms of its own"
	load(t, alone)
	for i, at := range join(t, serve(t, alone), 40) {
		if at != first[i] && at != all[2] {
			t.Errorf("room %d would be at %s, and not at %s or the new %s", i, at, first[i], all[2])
		}
	}
}

// TestRoomMovesWhenItsUpstreamDies: all of it, to one other, and who is refused leaves no
// member behind.
func TestRoomMovesWhenItsUpstreamDies(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	ups := threeUpstreams(t)
	h := withRooms(tellsUpstream(nil, addresses(ups)...), `, "balance": 125`)
	load(t, h)
	p := serve(t, h)
	c := testbed.Dial(t, p.Addr)
	was := c.Handshake("/?room=1").Header.Get("X-Upstream")
	i := slices.IndexFunc(ups, func(u *testbed.Upstream) bool { return u.Addr == was })
	ups[i].Stop()
	c.Close()
	eventually(t, "the room is empty", func() bool { return tunnelsOf(was) == 0 })
	var now []string
	for range 5 {
		now = append(now, join(t, p, 2)[1])
	}
	if slices.Contains(now, was) || len(slices.Compact(now)) != 1 {
		t.Errorf("the room was at %s, and its members came to %v", was, now)
	}
}

// TestHandshakesWithoutAKey are counted, and go by the fallback.
func TestHandshakesWithoutAKey(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	all := addresses(threeUpstreams(t))
	h := withRooms(tellsUpstream(nil, all...), `, "fallback": {"policy": "round_robin"}`)
	h.Name = "keyless"
	load(t, h)
	p := serve(t, h)
	before := process.metrics.Handler(h.Name).Keyless.Load()
	seen := make(map[string]bool)
	for range 3 {
		c := testbed.Dial(t, p.Addr)
		seen[c.Handshake("/?room=").Header.Get("X-Upstream")] = true
		defer c.Close()
	}
	if len(seen) != 3 {
		t.Errorf("three of them came to %v, want each once", seen)
	}
	if got := process.metrics.Handler(h.Name).Keyless.Load() - before; got != 3 {
		t.Errorf("%d were counted, want 3", got)
	}
	for _, open := range process.live.Collect(nil) {
		if evict.LeaseOf(open).Room != nil {
			t.Errorf("%s is in a room", open.ID)
		}
	}
}

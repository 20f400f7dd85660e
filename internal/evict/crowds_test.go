package evict

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// withRooms is a site that is rebalanced and goes by keys.
func withRooms(percent int, dials ...string) *site {
	s := rebalancing(0.2, dials...)
	s.keys = &upstream.Keys{Balance: percent, Group: func() any { return "handler" }}
	return s
}

// fill opens tunnels of rooms with one to so many members.
func (f *flock) fill(s *site, rooms, most int) {
	f.t.Helper()
	for i := range rooms {
		for range 1 + i%most {
			f.openIn(s, fmt.Sprint("room ", i))
		}
	}
}

// split returns how many rooms are at several upstreams.
func (f *flock) split() (n int) {
	at := make(map[string]map[string]bool)
	for _, t := range f.live.Collect(nil) {
		if at[t.ID] == nil {
			at[t.ID] = make(map[string]bool)
		}
		at[t.ID][t.Upstream] = true
	}
	for room, all := range at {
		if room != "" && len(all) > 1 {
			n++
		}
	}
	return n
}

func TestRebalancingMovesWholeRooms(t *testing.T) {
	inFlock(t, func(f *flock) {
		s := withRooms(125, hostA, hostB, hostC)
		f.enter(s)
		f.operate(upstream.Drain, hostC)
		f.fill(s, 80, 9)
		before := f.live.Count()
		time.Sleep(pause)
		f.operate(upstream.Ready, hostC)
		time.Sleep(forLong)
		f.expect(before/10, map[string]int{hostC: before / 3})
		if n := f.split(); n > 0 {
			t.Errorf("%d rooms are split", n)
		}
		if n := f.closings(); n > before/2 {
			t.Errorf("%d of %d tunnels were closed to move a third", n, before)
		}
	})
}

// TestRebalancingByKeysAlone: without a bound, what moves is what the new upstream is the
// first for.
func TestRebalancingByKeysAlone(t *testing.T) {
	inFlock(t, func(f *flock) {
		before := withRooms(0, hostA, hostB)
		unload := f.enter(before)
		f.fill(before, 80, 1)
		f.reload(withRooms(0, hostA, hostB, hostC), unload)
		time.Sleep(forLong)
		if n := f.closings(); n == 0 || n != f.tunnelsOf(hostC) {
			t.Errorf("%d tunnels were closed, and the new upstream has %d", n, f.tunnelsOf(hostC))
		}
	})
}

// TestRebalancingMovesThoseWithoutAKey: one by one, as without rooms.
func TestRebalancingMovesThoseWithoutAKey(t *testing.T) {
	inFlock(t, func(f *flock) {
		s := withRooms(125, hostA, hostB, hostC)
		f.enter(s)
		f.operate(upstream.Drain, hostC)
		f.fill(s, 9, 9)
		f.open(300)
		time.Sleep(pause)
		f.operate(upstream.Ready, hostC)
		time.Sleep(forLong)
		f.expect(8, map[string]int{hostA: 115, hostB: 115, hostC: 115})
		if n := f.split(); n > 0 {
			t.Errorf("%d rooms are split", n)
		}
	})
}

// TestNothingMovesForOneBigRoom: that moving it makes nothing better ends it.
func TestNothingMovesForOneBigRoom(t *testing.T) {
	inFlock(t, func(f *flock) {
		s := withRooms(125, hostA, hostB)
		f.enter(s)
		f.operate(upstream.Drain, hostB)
		for range 60 {
			f.openIn(s, "room")
		}
		f.operate(upstream.Ready, hostB)
		time.Sleep(forLong)
		f.expectClosings(0, "in all")
	})
}

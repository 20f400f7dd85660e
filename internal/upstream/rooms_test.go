package upstream

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// withRooms has a pool choose by keys, with this percentage.
func withRooms(percent int) func(*Pool) {
	return func(p *Pool) { p.Keys = &Keys{Balance: percent, Group: func() any { return "handler" }} }
}

// enter has a handshake with a key choose, and returns it when it has or waits.
func (s *site) enter(key string) *standing {
	s.w.t.Helper()
	return s.standAs(func(c *Candidates) { c.ByKey(key) })
}

// place returns where a key leads to now.
func (s *site) place(key string) string {
	s.w.t.Helper()
	one := s.enter(key)
	defer one.leave()
	if one.chosen == nil {
		return ""
	}
	return one.chosen.Host.Address
}

// order returns the addresses in the order of a key.
func (s *site) order(key string) (all []string) {
	s.w.t.Helper()
	one := s.enter(key)
	defer one.Close()
	for one.chosen != nil {
		all = append(all, one.chosen.Host.Address)
		one.cancel()
		s.w.GiveBack(one.chosen)
		one.again()
	}
	one.cancel()
	return all
}

// index returns which upstream has an address.
func (s *site) index(address string) int {
	for i, e := range s.Fixed {
		if e.Host.Address == address {
			return i
		}
	}
	return -1
}

var both = map[string]int{"plain": 0, "balance": 125}

// TestKeyLeadsToTheSameEverywhere: the order of an address depends on nothing but itself and
// the key, and nobody else has to know what was chosen.
func TestKeyLeadsToTheSameEverywhere(t *testing.T) {
	for name, percent := range both {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				here := w.load(withRooms(percent), "a:1", "b:1", "c:1", "d:1")
				there := &world{t: t, Table: NewTable(func(Change) {})}
				other := there.load(withRooms(percent), "d:1", "b:1", "a:1", "c:1")
				moved := there.load(withRooms(percent), "d:1", "b:1", "e:1", "a:1", "c:1")
				seen := make(map[string]int)
				gone := 0
				for i := range 400 {
					key := fmt.Sprint("room ", i)
					at := here.place(key)
					seen[at]++
					if got := other.place(key); got != at {
						t.Fatalf("%s is at %s here and at %s there", key, at, got)
					}
					switch got := moved.place(key); got {
					case at:
					case "e:1":
						gone++
					default:
						t.Fatalf("%s has moved from %s to %s, which is not new", key, at, got)
					}
				}
				if len(seen) != 4 || gone > 400/5+40 || gone < 400/5-40 {
					t.Errorf("%d of 400 rooms are at the new one, before they were at %v", gone, seen)
				}
			})
		})
	}
}

// TestKeyGoesOn: who cannot be asked any more is passed over, and has its rooms again when
// it is back.
func TestKeyGoesOn(t *testing.T) {
	for name, test := range map[string]struct {
		out, back func(w *world, s *site, address string)
	}{
		"drained": {
			func(w *world, _ *site, address string) { w.operate(Drain, address) },
			func(w *world, _ *site, address string) { w.operate(Ready, address) },
		},
		"in maintenance": {
			func(w *world, _ *site, address string) { w.operate(Maint, address) },
			func(w *world, _ *site, address string) { w.operate(Ready, address) },
		},
		"failing": {
			func(_ *world, s *site, address string) { s.fail(s.index(address), 2) },
			func(*world, *site, string) { time.Sleep(time.Hour) },
		},
		"down": {
			func(w *world, s *site, address string) { w.Report(s.verdictOf(address), "broken", 1, 1) },
			func(w *world, s *site, address string) { w.Report(s.verdictOf(address), "", 1, 1) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(func(p *Pool) { watching(p); withRooms(125)(p) }, "a:1", "b:1", "c:1")
				for _, e := range s.Fixed {
					w.Judge(e, "check")
					t.Cleanup(func() { w.Unjudge(e) })
				}
				order := s.order("room")
				if len(order) != 3 {
					t.Fatalf("retries have come to %v", order)
				}
				test.out(w, s, order[0])
				if got := s.place("room"); got != order[1] {
					t.Errorf("it is at %s, want the next of %v", got, order)
				}
				test.back(w, s, order[0])
				if got := s.place("room"); got != order[0] {
					t.Errorf("it is at %s, want the first of %v again", got, order)
				}
			})
		})
	}
}

func (s *site) verdictOf(address string) *Verdict { return s.Fixed[s.index(address)].Verdict }

// TestDoubtMovesNoRooms: what others have seen is no reason to split a room, and no slow
// start is.
func TestDoubtMovesNoRooms(t *testing.T) {
	for name, percent := range both {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(func(p *Pool) { withRooms(percent)(p); p.SlowStart = time.Hour }, "a:1", "b:1", "c:1")
				first := s.place("room")
				w.doubt(s.Fixed[s.index(first)], true)
				w.JoinPools(s.Fixed[s.index(first) : s.index(first)+1])
				for range 20 {
					if got := s.place("room"); got != first {
						t.Fatalf("it is at %s, want %s", got, first)
					}
					if got := s.place(""); got == first {
						t.Fatal("who has no key has come to the doubtful one")
					}
				}
				w.doubt(s.Fixed[s.index(first)], false)
			})
		})
	}
}

func (w *world) doubt(e *Endpoint, is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.doubtful = is
	e.showLocked()
}

// TestRoomStaysTogether: members follow the first one, also to where it would not be now, and
// handshakes that fail leave nothing behind.
func TestRoomStaysTogether(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(withRooms(125), "a:1", "b:1", "c:1", "d:1")
		order := s.order("room")
		w.operate(Maint, order[0])
		first := s.enter("room")
		first.expect(order[1], nil)
		w.operate(Ready, order[0])
		second := s.enter("room")
		second.expect(order[1], nil)
		if held := w.Held(); held.rooms != 1 {
			t.Errorf("there are %d rooms, want 1", held.rooms)
		}
		leave(first)
		if got := s.place("room"); got != order[1] {
			t.Errorf("a member has come to %s, want %s, where the others are", got, order[1])
		}
		second.chosen.Room.MoveOn()
		if got := s.place("room"); got != order[0] {
			t.Errorf("when the others are about to go, it has come to %s, want %s", got, order[0])
		}
		if got := s.Elsewhere("handler", second.chosen.Room.Key(), order[1]); got != order[0] {
			t.Errorf("the room would be at %s, want %s", got, order[0])
		}
		leave(second)
		if got := s.place("room"); got != order[0] {
			t.Errorf("a new room has come to %s, want %s", got, order[0])
		}
	})
}

// TestBigRoomOverflows: in the room's order, and no upstream gets too much.
func TestBigRoomOverflows(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(withRooms(125), "a:1", "b:1", "c:1", "d:1")
		order := s.order("room")
		var all []*standing
		defer func() { leave(all...) }()
		for range 600 {
			all = append(all, s.enter("room"))
		}
		tunnels := make(map[string]int)
		for _, one := range all {
			tunnels[one.chosen.Host.Address]++
		}
		for i, address := range order {
			if tunnels[address] < 64 || tunnels[address] > 600/4+64 {
				t.Errorf("%d of a room of 600 are at the %d. upstream: %v", tunnels[address], i, tunnels)
			}
		}
		for range 300 {
			if at := s.place("another"); tunnels[at] > 600/4+64 {
				t.Fatalf("a new room has come to the full upstream %s", at)
			}
		}
	})
}

// TestRoomsOutliveConfigurations: the next one finds the members of the last one.
func TestRoomsOutliveConfigurations(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(withRooms(125), "a:1", "b:1", "c:1")
		order := s.order("room")
		w.operate(Maint, order[0])
		member := s.enter("room")
		w.operate(Ready, order[0])
		next := w.load(withRooms(150), "a:1", "b:1", "c:1", "d:1")
		s.unload()
		if got := next.place("room"); got != order[1] {
			t.Errorf("after a reload it is at %s, want %s, where its members are", got, order[1])
		}
		other := w.load(func(p *Pool) {
			withRooms(125)(p)
			p.Keys.Group = func() any { return "another handler" }
		}, "a:1", "b:1", "c:1")
		if got := other.place("room"); got != order[0] {
			t.Errorf("the room of another handler is at %s, want %s", got, order[0])
		}
		leave(member)
		if held := w.Held(); held.rooms != 0 {
			t.Errorf("%d rooms are left", held.rooms)
		}
	})
}

// TestWhoHasAKeyWaits: in the queue as others do, and who leaves it or is served there has
// the place of a member once.
func TestWhoHasAKeyWaits(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(func(p *Pool) { narrow(p); withRooms(125)(p) }, "a:1", "b:1")
		order := s.order("room")
		one, two := s.enter("room"), s.enter("room")
		one.expect(order[0], nil)
		two.expect(order[1], nil) // the next, as the first is full
		three, four, five := s.enter("room"), s.enter("another"), s.enter("")
		three.expectWaiting("both are full")
		leave(two)
		three.expect(order[1], nil)
		four.cancel()
		leave(one)
		five.expect(order[0], nil)
		leave(three, four, five)
		if held := w.Held(); held.rooms != 0 {
			t.Errorf("%d rooms are left", held.rooms)
		}
	})
}

func TestMissedKey(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, test := range []struct {
			set    func(*Pool)
			key    string
			missed bool
		}{
			{asItIs, "", false},
			{asItIs, "room", false},
			{withRooms(0), "room", false},
			{withRooms(0), "", true},
		} {
			s := w.load(test.set, "a:1")
			c, err := s.Candidates(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.ByKey(test.key); got != test.missed {
				t.Errorf("%+v: got %v", test, got)
			}
			s.unload()
		}
	})
}

// TestWhoHasAKeyWaitsForItsUpstream: in a storm, rooms must not be spread over those who can
// take a handshake just now.
func TestWhoHasAKeyWaitsForItsUpstream(t *testing.T) {
	for name, percent := range both {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.loadLimited(Server{MaxHandshakes: 1}, "a:1", "b:1", "c:1")
				withRooms(percent)(s.Pool)
				order := s.order("room")
				all := []*standing{s.enter("room"), s.enter("room"), s.enter("room")}
				all[0].expect(order[0], nil)
				for i := range all[1:] {
					all[i+1].expectWaiting("a handshake is under way where the room is")
				}
				free := s.enter("")
				free.expect("", nil)
				if free.chosen.Host.Address == order[0] {
					t.Error("who has no key has come to the only one that is busy")
				}
				free.answer()
				all[0].answer()
				all[1].expect(order[0], nil)
				// It cannot be waited for any more, so the rest is where the room can be.
				w.operate(Maint, order[0])
				all[2].expect(order[1], nil)
				w.operate(Ready, order[0])
				leave(append(all, free)...)
			})
		})
	}
}

// TestOrderIsForever: nodes of two versions, and a node before and after an upgrade, lead a
// key to the same upstream.
func TestOrderIsForever(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(withRooms(125), "10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80", "app.example:3000")
		for key, want := range map[string]string{
			"room":          "app.example:3000 10.0.0.1:80 10.0.0.2:80 [2001:db8::1]:80",
			"42":            "[2001:db8::1]:80 10.0.0.1:80 app.example:3000 10.0.0.2:80",
			"Zürich":        "app.example:3000 10.0.0.1:80 10.0.0.2:80 [2001:db8::1]:80",
			"a room/tenant": "[2001:db8::1]:80 10.0.0.1:80 app.example:3000 10.0.0.2:80",
		} {
			if got := strings.Join(s.order(key), " "); got != want {
				t.Errorf("%s: got %s, want %s", key, got, want)
			}
		}
	})
}

// TestWhoHasNoKeyWaitsLikeOthers: of those without a key, one finds what all find, but not
// what those with a key do, who stay where somebody doubts.
func TestWhoHasNoKeyWaitsLikeOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(func(p *Pool) { narrow(p); withRooms(0)(p) }, "a", "b")
		a, b := s.stand(), s.stand()
		var keyless []*standing
		for range 5 {
			keyless = append(keyless, s.stand())
		}
		keyed := s.enter("room")
		for i, one := range keyless {
			if !one.waits() {
				t.Errorf("without a key, %d does not wait", i)
			}
		}
		a.leave()
		keyless[0].expectServed(t)
		b.leave()
		keyless[1].expectServed(t)
		keyless[2].expectWaiting("there is no third place")
		keyless[2].leave()
		leave(keyless[0], keyless[1])
		keyless[3].expectServed(t)
		keyless[4].expectServed(t)
		keyed.expectWaiting("two without a key have the places")
		leave(keyless[3:]...)
		keyed.expectServed(t)
		keyed.leave()
	})
}

func (s *standing) expectServed(t *testing.T) {
	t.Helper()
	if s.waits() || s.chosen == nil {
		t.Errorf("it has got no place: %v", s.err)
	}
}

package sticky

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	alice = netip.MustParsePrefix("198.51.100.1/32")
	bob   = netip.MustParsePrefix("2001:db8::/64")
)

func TestSessionUnderWay(t *testing.T) {
	s := NewSessions()
	a, b := Home{"chat", "a:80"}, Home{"chat", "b:80"}
	after := func(d time.Duration) time.Time { return start.Add(d) }
	check := func(when time.Duration, client netip.Prefix, home Home, want bool) {
		t.Helper()
		if got := s.UnderWay(after(when), client, home); got != want {
			t.Errorf("after %v, %v at %v: got %t", when, client, home, got)
		}
	}
	check(0, alice, a, false)
	tunnel := s.Begin(start, alice, a)
	request := s.Begin(start, alice, a)
	request.End(after(time.Second))
	check(time.Hour, alice, a, true) // the tunnel is open
	check(time.Hour, alice, b, false)
	check(time.Hour, alice, Home{"other", "a:80"}, false)
	check(time.Hour, bob, a, false)
	tunnel.End(after(time.Hour))
	check(time.Hour+sessionRest-1, alice, a, true)
	check(time.Hour+sessionRest, alice, a, false)

	s.Begin(after(2*time.Hour), bob, b).End(after(2 * time.Hour))
	if networks, open := s.Held(); networks != 1 || open != 0 {
		t.Errorf("got %d networks and %d open, want 1 and 0", networks, open)
	}
}

// One network cannot have more remembered than a few homes, and those that are open stay.
func TestHomesOfOneNetworkAreBounded(t *testing.T) {
	s := NewSessions()
	tunnel := s.Begin(start, alice, Home{nil, "open:80"})
	for i := range 10000 {
		now := start.Add(time.Duration(i))
		s.Begin(now, alice, Home{nil, fmt.Sprint(i)}).End(now)
	}
	if n := len(s.networks[alice].visits); n != mostHomes {
		t.Errorf("got %d homes, want %d", n, mostHomes)
	}
	now := start.Add(time.Second)
	if !s.UnderWay(now, alice, Home{nil, "open:80"}) || !s.UnderWay(now, alice, Home{nil, "9999"}) ||
		s.UnderWay(now, alice, Home{nil, "0"}) {
		t.Error("the wrong homes were forgotten")
	}
	tunnel.End(now)
	if networks, open := s.Held(); networks != 1 || open != 0 {
		t.Errorf("got %d networks and %d open, want 1 and 0", networks, open)
	}
}

func TestNetworksAreBounded(t *testing.T) {
	s := NewSessions()
	home := Home{nil, "a:80"}
	tunnel := s.Begin(start, alice, home)
	for i := range mostNetworks + 1000 {
		client := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		s.Begin(start, client, home).End(start)
	}
	if networks, open := s.Held(); networks > mostNetworks+2 || open != 1 {
		t.Errorf("got %d networks and %d open, want %d and 1", networks, open, mostNetworks)
	}
	if !s.UnderWay(start, alice, home) {
		t.Error("a tunnel was forgotten")
	}
	// All that come later take away what rests for too long.
	later := start.Add(2 * sessionRest)
	for range mostNetworks {
		s.Begin(later, bob, home).End(later)
	}
	tunnel.End(later)
	if networks, open := s.Held(); networks != 2 || open != 0 {
		t.Errorf("got %d networks and %d open, want 2 and 0", networks, open)
	}
}

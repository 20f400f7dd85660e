package upstream

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// choose makes a choice without waiting for one.
func (w *world) choose(c *Candidates) *Choice {
	w.t.Helper()
	chosen, err := c.Next(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return chosen
}

// A handshake that chooses an upstream only after its configuration was unloaded has no
// reference of that to rely on.
func TestChoiceAfterCleanup(t *testing.T) {
	for name, loadAgain := range map[string]bool{"with a new handler": true, "with no handler": false} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(asItIs, "a:1")
				c, err := s.Candidates(nil)
				if err != nil {
					t.Fatal(err)
				}
				s.unload()
				var after *site
				if loadAgain {
					after = w.load(asItIs, "a:1")
				}
				chosen := w.choose(c)
				c.Close()
				if i, _ := w.Info("a:1"); chosen == nil || chosen.Tunnels != 1 || i.Tunnels != 1 {
					t.Fatalf("chose %+v, and %d tunnels are counted, want 1", chosen, i.Tunnels)
				}
				if loadAgain && chosen.Host != after.Fixed[0].Host {
					t.Error("the tunnel is counted where the new handler does not look")
				}
				w.GiveBack(chosen)
				if i, _ := w.Info("a:1"); i.Tunnels != 0 {
					t.Errorf("%d tunnels counted, want 0", i.Tunnels)
				}
			})
		})
	}
}

func TestPlaceholdersAreExpandedForEachHandshake(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(asItIs)
		s.AddTemplate(&Server{Weight: 1}, "{host}:9000")
		s.AddFixed(&Server{Weight: 1, Backup: true}, Address{HostPort: "fixed:9000"})
		for _, name := range []string{"one", "two"} {
			c, err := s.Candidates(func(dial string) (Address, error) {
				return Address{HostPort: strings.ReplaceAll(dial, "{host}", name)}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			chosen := w.choose(c)
			if want := name + ":9000"; chosen == nil || chosen.Host.Address != want || chosen.Tunnels != 1 {
				t.Fatalf("chose %+v, want %s with one tunnel", chosen, want)
			}
			second := w.choose(c)
			if second == nil || second.Host.Address != "fixed:9000" {
				t.Fatalf("the second choice is %+v, want the backup", second)
			}
			c.Close()
			w.GiveBack(second)
			w.GiveBack(chosen)
		}
		if got := w.Held().Addresses; got != 1 {
			t.Errorf("%d addresses are known, want only the fixed one", got)
		}
	})
}

func TestAddressThatCannotBeMadeGivesBackTheOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(asItIs)
		s.AddTemplate(&Server{Weight: 1}, "{good}")
		s.AddTemplate(&Server{Weight: 1}, "{bad}")
		bad := errors.New("no address")
		if _, err := s.Candidates(func(dial string) (Address, error) {
			if dial == "{bad}" {
				return Address{}, bad
			}
			return Address{HostPort: "good:1"}, nil
		}); !errors.Is(err, bad) {
			t.Errorf("got %v, want %v", err, bad)
		}
		if got := w.Held().Addresses; got != 0 {
			t.Errorf("%d addresses are known, want none", got)
		}
	})
}

// Who chooses without the lock sees what may be chosen, and may be too late.
func TestOptionsAndWhatIsLeftOfThem(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(func(p *Pool) { p.MaxTunnels = 1 }, "a:1")
		s.AddFixed(&Server{Weight: 1, Dial: "b:1"}, Address{HostPort: "b:1"})
		s.AddFixed(&Server{Weight: 1, Dial: "c:1", Backup: true}, Address{HostPort: "c:1"})
		c, _ := s.Candidates(nil)
		defer c.Close()
		expect := func(want ...string) {
			t.Helper()
			var got []string
			for _, e := range c.Options() {
				got = append(got, e.Host.Address)
			}
			if !slices.Equal(got, want) {
				t.Errorf("the options are %v, want %v", got, want)
			}
		}
		expect("a:1", "b:1")
		other, _ := s.Candidates(nil)
		defer other.Close()
		held := []*Choice{other.Reserve(s.Fixed[0])}
		if got := c.Reserve(s.Fixed[0]); got != nil {
			t.Errorf("got %+v at an upstream that is full", got)
		}
		expect("b:1")
		if got := c.Usable(); !slices.Equal(got, []string{"a:1", "b:1"}) {
			t.Errorf("usable are %v, want full ones too", got)
		}
		for _, i := range []int{1, 2} {
			held = append(held, c.Reserve(s.Fixed[i]))
			if i == 1 {
				expect("c:1")
			}
		}
		expect()
		w.GiveBack(held[0])
		c.NextRound()
		expect("a:1", "b:1")
		for _, h := range held[1:] {
			w.GiveBack(h)
		}
	})
}

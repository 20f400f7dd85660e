package upstream

import (
	"slices"
	"testing"
	"time"
)

func TestWhoIsAskedAsAWitness(t *testing.T) {
	for name, c := range map[string]struct {
		do            func(s *site)
		first, second []string // where those are that are asked; none: nobody
	}{
		"one with tunnels":          {func(*site) {}, []string{"c:1", "d:1"}, []string{"b:1", "c:1", "d:1"}},
		"not one that has failed":   {func(s *site) { s.unanswered(3, 1) }, []string{"c:1"}, []string{"b:1", "d:1"}},
		"anyone if all have failed": {failOnce, []string{"b:1", "c:1", "d:1"}, []string{"b:1", "c:1", "d:1"}},
		"not a doubtful one":        {func(s *site) { s.convict(3) }, []string{"c:1"}, []string{"b:1"}},
		"not a failing one":         {func(s *site) { s.fail(3, maxFails) }, []string{"c:1"}, []string{"b:1"}},
		"not a closed one":          {func(s *site) { s.w.operate(Evict, "d:1") }, []string{"c:1"}, []string{"b:1"}},
		"not a drained one":         {func(s *site) { s.w.operate(Drain, "d:1") }, []string{"c:1"}, []string{"b:1"}},
		"not a full one": {func(s *site) {
			for _, h := range s.fill("d:1", 2) {
				s.w.t.Cleanup(func() { s.w.TunnelEnded(h) })
			}
		}, []string{"c:1"}, []string{"b:1"}},
		"a doubtful one if all are": {doubtAll, []string{"b:1", "c:1", "d:1"}, []string{"b:1", "c:1", "d:1"}},
		"one if all others are":     {func(s *site) { doubtAll(s); s.opens(3, 1) }, []string{"d:1"}, nil},
		"no backup":                 {closeOthers, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(func(p *Pool) { doubting(p); p.MaxTunnels = 4 }, "a:1", "b:1", "c:1", "d:1")
				s.AddFixed(&Server{Weight: 1, Backup: true}, Address{HostPort: "backup:1"})
				held := slices.Concat(s.fill("c:1", 1), s.fill("d:1", 2), s.fill("backup:1", 9))
				c.do(s)
				var first, second []string
				for range 100 {
					cs := s.candidates()
					of := cs.Reserve(s.Fixed[0])
					one := cs.Witness(of, true)
					if len(c.first) == 0 {
						if one != nil {
							t.Fatalf("asks %s", one.Host.Address)
						}
						s.end(of)
						cs.Close()
						continue
					}
					if one == nil || !one.IsWitness || one.Late < leastLate {
						t.Fatalf("asks %+v first", one)
					}
					if got := one.Tunnels; got != one.Endpoint.Host.tunnels {
						t.Errorf("the place is not counted: %d", got)
					}
					two := cs.Witness(of, false)
					if first = append(first, one.Host.Address); len(c.second) == 0 {
						if two != nil {
							t.Fatalf("asks %s, too", two.Host.Address)
						}
						s.end(of)
						s.end(one)
						cs.Close()
						continue
					}
					if two == nil || two.Host == one.Host || two.Host == of.Host {
						t.Fatalf("asks %+v then", two)
					}
					second = append(second, two.Host.Address)
					for _, choice := range []*Choice{of, one, two} {
						s.end(choice)
					}
					cs.Close()
				}
				for _, of := range []struct {
					name      string
					got, want []string
				}{{"first", first, c.first}, {"then", second, c.second}} {
					slices.Sort(of.got)
					if got := slices.Compact(of.got); !slices.Equal(got, of.want) {
						t.Errorf("asks %v %s, want %v", got, of.name, of.want)
					}
				}
				for _, h := range held {
					w.TunnelEnded(h)
				}
			})
		})
	}
}

// doubtAll has all but the first be doubtful, until they answer.
func doubtAll(s *site) {
	for i := 1; i < 4; i++ {
		s.convict(i)
	}
	time.Sleep(failDuration)
}

// closeOthers closes all but the first and the backup.
func closeOthers(s *site) {
	s.w.said++
	closed := State{State: Maint}
	s.w.SetStates(s.w.said, map[string]State{"b:1": closed, "c:1": closed, "d:1": closed})
}

// failOnce has all but the first fail.
func failOnce(s *site) {
	for i := 1; i < 4; i++ {
		s.unanswered(i, 1)
	}
}

// fill opens tunnels at an address.
func (s *site) fill(address string, tunnels int) (held []*Host) {
	for range tunnels {
		held = append(held, s.w.occupy(address))
	}
	return held
}

func TestAWitnessOfABackupIsABackup(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(doubting, "a:1")
		for _, address := range []string{"c:1", "d:1"} {
			s.AddFixed(&Server{Weight: 1, Backup: true}, Address{HostPort: address})
		}
		c := s.candidates()
		of := c.Reserve(s.Fixed[1])
		one := c.Witness(of, true)
		if one == nil || one.Host.Address != "d:1" {
			t.Fatalf("asks %+v, want d:1", one)
		}
		if two := c.Witness(of, false); two != nil {
			t.Errorf("asks %s, too", two.Host.Address)
		}
		s.end(of)
		s.end(one)
		c.Close()
	})
}

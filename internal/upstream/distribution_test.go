package upstream

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
)

// checkedLeastConn is LeastConn, which is checked at the instant of each pick. It is
// guarded by the table's lock.
type checkedLeastConn struct {
	LeastConn

	picks, wrong int
}

func (p *checkedLeastConn) Pick(slots []Slot, of class, random func(int) int) int {
	i := p.LeastConn.Pick(slots, of, random)
	picked := slots[i].endpoint
	p.picks++
	for _, s := range slots {
		e := s.endpoint
		if s.class == of && e.Host.tunnels*picked.Server.Weight < picked.Host.tunnels*e.Server.Weight {
			p.wrong++
		}
	}
	return i
}

// open opens a tunnel.
func (s *site) open() *Host {
	s.w.t.Helper()
	c, err := s.Candidates(nil)
	if err != nil {
		s.w.t.Error(err)
		return nil
	}
	defer c.Close()
	chosen, err := c.Next(s.w.t.Context())
	if err != nil || chosen == nil {
		s.w.t.Errorf("got %+v, %v", chosen, err)
		return nil
	}
	s.w.HandshakeEnded(chosen, limit.Answered)
	return chosen.Host
}

// churn has workers open n tunnels, and end some of them again at random. It returns
// those that are left.
func (s *site) churn(n int) (left []*Host) {
	const workers = 16
	var mu sync.Mutex // guards left
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			var open []*Host
			for range n / workers {
				open = append(open, s.open())
				for len(open) > 0 && rand.IntN(2) == 0 {
					i := rand.IntN(len(open))
					s.w.TunnelEnded(open[i])
					open = slices.Delete(open, i, i+1)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			left = append(left, open...)
		})
	}
	all.Wait()
	return left
}

// counts are how many tunnels the upstreams have.
func (s *site) counts() (counts []int) {
	for _, o := range s.Occupancies() {
		counts = append(counts, o.Tunnels)
	}
	return counts
}

func TestEachPickIsTheLeastLoadedUnderChurn(t *testing.T) {
	const n = 3200
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(asItIs, "a:1", "b:1", "c:1", "d:1", "e:1")
		checked := new(checkedLeastConn)
		s.Policy = checked
		open := s.churn(n)
		if checked.wrong > 0 || checked.picks != n {
			t.Errorf("%d of %d picks were not the least loaded", checked.wrong, checked.picks)
		}
		// As many more as there are make it level.
		for range n / 4 {
			open = append(open, s.open())
		}
		if after := s.counts(); slices.Max(after)-slices.Min(after) > 1 {
			t.Errorf("the tunnels are %v, want them level within 1", after)
		}
		for _, h := range open {
			w.TunnelEnded(h)
		}
	})
}

func TestWeightsAreRespected(t *testing.T) {
	for name, policy := range map[string]Policy{
		"least_conn": LeastConn{}, "round_robin": RoundRobin{}, "random_choose": &RandomChoose{Choices: 2},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(func(p *Pool) { p.Policy = policy })
				for weight, address := range []string{"a:1", "b:1", "c:1", "d:1"} {
					s.AddFixed(&Server{Weight: weight + 1}, Address{HostPort: address})
				}
				const n = 1000
				var open []*Host
				for range n {
					open = append(open, s.open())
				}
				for i, got := range s.counts() {
					if want := n * (i + 1) / 10; got < want-n/50 || got > want+n/50 {
						t.Errorf("upstream of weight %d has %d of %d tunnels, want %d", i+1, got, n, want)
					}
				}
				for _, h := range open {
					w.TunnelEnded(h)
				}
			})
		})
	}
}

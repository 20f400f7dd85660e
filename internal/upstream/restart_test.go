package upstream

import (
	"math/rand/v2"
	"testing"
)

// After a rolling restart, in which each upstream loses its tunnels to the others, and the day
// in which three times as many tunnels as there are end and begin, live counts are level. With
// a random choice they are not.
func TestLevelAfterARollingRestart(t *testing.T) {
	addresses := []string{"a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1", "i:1", "j:1"}
	for name, test := range map[string]struct {
		policy Policy
		least  float64 // of the mean
		most   float64
		worst  float64 // at least as far from the mean is the fullest
	}{
		"least_conn": {LeastConn{}, 0.99, 1.01, 1},
		"random":     {&RandomChoose{Choices: 1}, 0.5, 2, 1.02},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(func(p *Pool) { p.Policy = test.policy }, addresses...)
				random := rand.New(rand.NewPCG(1, 2)) // the same each time
				s.Policy = test.policy
				var live []*Host
				for range 2000 {
					live = append(live, s.open())
				}
				for _, address := range addresses {
					w.operate(Maint, address)
					for i, h := range live {
						if h.Address == address {
							live[i] = s.open()
							w.TunnelEnded(h)
						}
					}
					w.operate(Ready, address)
				}
				for range 3 * len(live) {
					i := random.IntN(len(live))
					w.TunnelEnded(live[i])
					live[i] = s.open()
				}
				counts := make(map[string]int)
				fullest := 0.0
				for _, h := range live {
					counts[h.Address]++
				}
				for _, address := range addresses {
					share := float64(counts[address]) / 200
					fullest = max(fullest, share)
					if share < test.least || share > test.most {
						t.Errorf("%s has %.3f of the mean", address, share)
					}
				}
				if fullest < test.worst {
					t.Errorf("the fullest has %.3f of the mean, less than what a random choice gives", fullest)
				}
				for _, h := range live {
					w.TunnelEnded(h)
				}
			})
		})
	}
}

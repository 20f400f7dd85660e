package upstream

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// manyEndpoints makes a pool with various loads and weights.
func manyEndpoints(n int) []*Endpoint {
	loads := make([]share, n)
	for i := range loads {
		loads[i] = share{weight: 1 + i%3, tunnels: 100 + i%7}
	}
	return endpointsWith(loads...)
}

func TestPickDoesNotAllocate(t *testing.T) {
	pool := manyEndpoints(100)
	tried := []*Server{pool[0].Server, pool[1].Server}
	scratch := make([]*Endpoint, 0, len(pool))
	for name, p := range policies() {
		got := testing.AllocsPerRun(100, func() {
			scratch = eligible(scratch[:0], pool, tried)
			p.Pick(scratch, rand.IntN)
		})
		if got != 0 {
			t.Errorf("%s allocates %v times", name, got)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for name, p := range map[string]Policy{
		"least_conn": LeastConn{}, "round_robin": RoundRobin{}, "random_choose": &RandomChoose{Choices: 2},
	} {
		for _, n := range []int{16, 1000} {
			b.Run(fmt.Sprintf("policy=%s/upstreams=%d", name, n), func(b *testing.B) {
				pool, scratch := manyEndpoints(n), make([]*Endpoint, 0, n)
				b.ReportAllocs()
				for b.Loop() {
					scratch = eligible(scratch[:0], pool, nil)
					// The tunnel is left open, so that the pick changes.
					p.Pick(scratch, rand.IntN).Host.tunnels++
				}
			})
		}
	}
}

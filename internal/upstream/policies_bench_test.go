package upstream

import (
	"fmt"
	"testing"
)

// candidatesAmong are those of a pool with various loads and weights.
func candidatesAmong(n int, policy Policy) *Candidates {
	p := NewPool(NewTable(nil))
	p.Policy = policy
	for i := range n {
		p.AddFixed(&Server{Weight: 1 + i%3}, Address{HostPort: fmt.Sprint("up:", i)})
		p.Fixed[i].Host.countLocked(100 + i%7)
	}
	return &Candidates{pool: p}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for name, p := range policies() {
		c := candidatesAmong(100, p)
		c.tried = []*Server{c.pool.Fixed[0].Server, c.pool.Fixed[1].Server}
		got := testing.AllocsPerRun(100, func() { c.pickLocked() })
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
				c := candidatesAmong(n, p)
				b.ReportAllocs()
				for b.Loop() {
					// The tunnel is left open, so that the pick changes.
					e, _ := c.pickLocked()
					e.Host.countLocked(1)
				}
			})
		}
	}
}

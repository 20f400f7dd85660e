package upstream

import (
	"fmt"
	"testing"
	"time"
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

// choosers are candidates of each policy, and some with a key: of no room yet, and of one that
// is live at some upstreams.
func choosers(n int) map[string]*Candidates {
	all := make(map[string]*Candidates)
	for name, p := range policies() {
		all[name] = candidatesAmong(n, p)
	}
	for name, keys := range map[string]Keys{"hash": {}, "hash new": {Balance: 125}, "hash live": {Balance: 125}} {
		c := candidatesAmong(n, LeastConn{})
		keys.Group = func() any { return nil }
		c.pool.Keys = &keys
		c.ByKey("a room")
		if name == "hash live" {
			for i := range 5 {
				c.joinRoomLocked(c.pool.Fixed[i*3].Host)
			}
		}
		all[name] = c
	}
	return all
}

func TestPickDoesNotAllocate(t *testing.T) {
	for name, c := range choosers(100) {
		c.tried = []*Server{c.pool.Fixed[0].Server, c.pool.Fixed[1].Server}
		got := testing.AllocsPerRun(100, func() { c.pickLocked() })
		if got != 0 {
			t.Errorf("%s allocates %v times", name, got)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{16, 1000} {
		for name, c := range choosers(n) {
			b.Run(fmt.Sprintf("policy=%s/upstreams=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					// The tunnel is left open, so that the pick changes. A room's does not.
					e := c.pickLocked()
					if !c.HasKey {
						e.Host.countLocked(1)
					}
				}
			})
		}
	}
}

// BenchmarkArrival is one that comes while thousands wait: it must not cost the others
// anything that those before it have no place.
func BenchmarkArrival(b *testing.B) {
	const waiting = 10_000
	for name, keys := range map[string]*Keys{
		"newcomer": nil, "without a key": {Balance: 125, Group: func() any { return "handler" }},
	} {
		b.Run(name, func(b *testing.B) {
			p := NewPool(NewTable(func(Change) {}))
			p.Policy, p.Keys, p.Queue = LeastConn{}, keys, QueueLimits{Size: waiting, Timeout: time.Minute}
			for i := range 100 {
				address := fmt.Sprintf("10.0.0.%d:1", i)
				p.AddFixed(&Server{Weight: 1, MaxTunnels: 1, Dial: address}, Address{HostPort: address})
			}
			arrive := func() {
				c, _ := p.Candidates(nil)
				_, _, _ = c.chooseOrQueue()
			}
			for range 100 + waiting {
				arrive()
			}
			for b.Loop() {
				arrive()
			}
		})
	}
}

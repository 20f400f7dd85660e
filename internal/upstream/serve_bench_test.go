package upstream

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// crowd are handshakes that wait at upstreams that take one at a time each.
type crowd struct {
	pools []*Pool
	// prepare has the i-th who comes be as the case wants it.
	prepare func(c *Candidates, i int)

	came    int
	served  chan served
	current []*Choice // those that are under way
	waiting []*waiter // those that wait, or have been served since
}

// crowdOf has so many pools with the same upstreams.
func crowdOf(pools, upstreams, waiting int, prepare func(c *Candidates, i int), set func(p *Pool)) *crowd {
	t := NewTable(func(Change) {})
	m := &crowd{prepare: prepare, served: make(chan served, waiting+upstreams)}
	for range pools {
		p := NewPool(t)
		p.Policy, p.Queue = LeastConn{}, QueueLimits{Size: waiting, Timeout: time.Minute}
		set(p)
		for i := range upstreams {
			address := fmt.Sprintf("10.0.%d.%d:1", i/100, i%100)
			p.AddFixed(&Server{Weight: 1, MaxHandshakes: 1, Dial: address}, Address{HostPort: address})
		}
		m.pools = append(m.pools, p)
	}
	for len(m.waiting) < waiting {
		m.join()
	}
	return m
}

// join has one more come, of a network of its own.
func (m *crowd) join() {
	c, _ := m.pools[m.came%len(m.pools)].Candidates(nil)
	c.Client = client(m.came)
	m.prepare(c, m.came)
	m.came++
	chosen, w, _ := c.chooseOrQueue()
	if chosen != nil {
		m.current = append(m.current, chosen)
	}
	if w != nil {
		w.served = m.served
		m.waiting = append(m.waiting, w)
	}
}

// end has a handshake under way end, and its tunnel, too.
func (m *crowd) end(c *Choice) { c.pool.table.GiveBack(c) }

// take notes who has been served.
func (m *crowd) take() {
	for len(m.served) > 0 {
		m.current = append(m.current, (<-m.served).choice)
	}
}

// benchmarkCrowd has handshakes end and others come in their place, and in the end all who
// wait leave. The metrics are what each of that costs.
func benchmarkCrowd(b *testing.B, m *crowd) {
	var ends, joins, leaves time.Duration
	events := 0
	timed := func(sum *time.Duration, do func()) {
		began := time.Now()
		do()
		*sum += time.Since(began)
	}
	for b.Loop() {
		if len(m.current) == 0 {
			m.join()
			continue
		}
		i := rand.IntN(len(m.current))
		over := m.current[i]
		m.current[i] = m.current[len(m.current)-1]
		m.current = m.current[:len(m.current)-1]
		timed(&ends, func() { m.end(over) })
		m.take()
		timed(&joins, m.join)
		events++
	}
	left := 0
	for _, w := range m.waiting {
		if len(w.places) > 0 {
			timed(&leaves, func() { w.candidates.pool.leaveQueue(w) })
			left++
		}
	}
	b.ReportMetric(float64(ends.Nanoseconds())/float64(events), "ns/end")
	b.ReportMetric(float64(joins.Nanoseconds())/float64(events), "ns/join")
	b.ReportMetric(float64(leaves.Nanoseconds())/float64(max(1, left)), "ns/leave")
}

// BenchmarkServe is a handshake that ends, so that somebody is served, one who comes and one
// who leaves, while many of as many client networks wait.
func BenchmarkServe(b *testing.B) {
	asTheyAre := func(*Candidates, int) {}
	byKey := func(c *Candidates, i int) { c.ByKey(fmt.Sprint(i)) }
	hashes := func(balance int) func(p *Pool) {
		return func(p *Pool) { p.Keys = &Keys{Balance: balance, Group: func() any { return "handler" }} }
	}
	// Each has two addresses of its own, which some others have, too.
	template := &Server{Weight: 1, MaxHandshakes: 1}
	own := func(c *Candidates, i int) {
		for _, n := range []int{i % 1000, i * 7 % 1000} {
			if address := fmt.Sprintf("own%d:1", n); !c.Has(address) {
				c.Add(NewEndpoint(template, Address{HostPort: address}), new(Provenance), "")
			}
		}
	}
	for _, s := range []struct {
		name             string
		pools, upstreams int
		prepare          func(c *Candidates, i int)
		set              func(p *Pool)
	}{
		{"least_conn", 1, 100, asTheyAre, asItIs},
		{"homes", 1, 100, func(c *Candidates, i int) { c.Home = c.pool.Fixed[i%100] }, asItIs},
		{"hash", 1, 100, byKey, hashes(0)},
		{"hash", 1, 1000, byKey, hashes(0)},
		{"hash balance", 1, 100, byKey, hashes(125)},
		{"hash balance", 1, 1000, byKey, hashes(125)},
		{"without a key", 1, 100, asTheyAre, hashes(125)},
		{"own", 1, 10, own, func(p *Pool) { p.Grow(1, true) }},
		{"tried", 1, 10, func(c *Candidates, i int) {
			if i > 20 {
				c.tried = append(c.tried, c.pool.Fixed[i%9].Server)
			}
		}, asItIs},
		{"handlers", 100, 10, asTheyAre, asItIs},
		{"handlers", 100, 100, asTheyAre, asItIs},
	} {
		for _, waiting := range []int{1000, 10_000} {
			b.Run(fmt.Sprintf("%s/upstreams=%d/waiting=%d", s.name, s.upstreams, waiting), func(b *testing.B) {
				benchmarkCrowd(b, crowdOf(s.pools, s.upstreams, waiting, s.prepare, s.set))
			})
		}
	}
}

package relay

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
)

// Clients that stop in the middle of a TLS record, that do not read what is
// sent to them, or not even that their connection is to be closed, must not
// take anything away from others: neither a poller nor the last of a bounded
// number of goroutines.
func TestStalledClientsHoldNobodyUp(t *testing.T) {
	for name := range implementations {
		many, stuck := amount(1000, 150), amount(30, 10)
		if name == "served" {
			many = amount(100, 20) // these have nothing in common
		}
		t.Run(name, func(t *testing.T) {
			all := combinationsOf(t, name)
			echoOnce(t, all) // what it starts for the process may stay
			goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
			c := newCrowd(t, 2)
			c.stall(many, "inside a record", ClientToUpstream, all, stayInsideRecord)
			c.stall(many, "not reading", UpstreamToClient, all, stayUnread)
			c.stall(stuck, "stuck", UpstreamToClient, all, stayStuck)
			for range 3 {
				for _, comb := range all {
					c.add(comb.name+"/echo", func(m *member) { echoMeanwhile(m, comb.rig(m)) })
				}
			}
			c.await(0)
			c.open(0)
			c.await(1)
			c.open(1)
			c.wait()
			eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
			eventually(t, "all descriptors are closed", func() bool { return openDescriptors(t) <= descriptors })
		})
	}
}

// stall adds many TLS clients that stay in a state until the second gate. Only
// some at a time come to it, and leave it again: no patience is enough for
// whatever they would all do at once.
func (c *crowd) stall(many int, name string, d Direction, among []combination, enter func(way, func())) {
	c.t.Helper()
	i := slices.IndexFunc(among, func(c combination) bool { return c.kinds == [2]string{"tls", "tcp"} })
	comb := among[i]
	slots := make(chan struct{}, 50)
	for i := range many {
		c.add(fmt.Sprintf("%s/%s/%d", comb.name, name, i), func(m *member) {
			slots <- struct{}{}
			defer func() { <-slots }()
			enter(comb.rig(m).way(d), func() {
				if m.passed > 0 {
					return
				}
				<-slots
				m.pass()
				m.pass()
				slots <- struct{}{}
			})
		})
	}
}

// stayUnread has a peer that does not read.
func stayUnread(w way, stay func()) {
	const size = 256 << 10
	w.narrow()
	w.start()
	poured := w.pourRepeated(size)
	eventually(w.tb, "the direction stalls", w.stall())
	stay()
	w.expectRepeated(size)
	<-poured
	w.from.closeWrite()
	w.to.expectEnd()
	w.to.closeWrite()
	w.waitDone()
	w.expectAllTaken(w.d, size)
}

// echoMeanwhile echoes between the first and the second gate.
func echoMeanwhile(m *member, r *rig) {
	r.start()
	r.client.expectEcho(r.upstream, "hello")
	m.pass()
	for i := range 20 {
		r.client.expectEcho(r.upstream, message(1+1000*i))
	}
	m.pass()
	r.client.expectEcho(r.upstream, "hello")
}

func echoOnce(t *testing.T, among []combination) {
	t.Helper()
	c := newCrowd(t, 0)
	for _, comb := range among {
		c.add(comb.name, func(m *member) {
			r := comb.rig(m)
			r.start()
			r.client.expectEcho(r.upstream, "hello")
		})
	}
	c.wait()
}

// openDescriptors returns how many the process has, where that can be told.
func openDescriptors(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

package relay

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// silence is longer than a relay may take to find out that a connection is
// idle, and then to treat it in another way.
var silence = time.Duration(amount(5000, 1500)) * time.Millisecond

// A relay in which nothing can happen for now does nothing. What a poller was
// not asked for it reports nevertheless, if it is an error or a hang-up.
//
// Here each state is alone, which tells what does not rest; below all are together.
func TestRelayRests(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("takes seven seconds; set LONG to run it")
	}
	all := combinations(t)
	for name, s := range states {
		t.Run(name, func(t *testing.T) {
			c := newCrowd(t, 1)
			c.enter(name, s, all, func(m *member) {
				if m.passed == 0 {
					m.pass()
				}
			})
			c.await(0)
			expectRest(t)
			c.open(0)
			c.wait()
		})
	}
}

// After a silence everything works as before, and during it nothing is done.
func TestRelayGoesOnAfterASilence(t *testing.T) {
	c := newCrowd(t, 1)
	all := combinations(t)
	stay := func(m *member) {
		if m.passed == 0 {
			m.pass() // together, so that the rest can be measured
			return
		}
		time.Sleep(silence)
	}
	for name, s := range states {
		c.enter(name, s, all, stay)
	}
	for name, s := range endings {
		c.enter(name, s, all, stay)
	}
	// More than a handful of idle ones.
	for range 10 {
		c.enter("idle", states["idle"], all, stay)
		c.enter("busy now and then", state{test: stayNowAndThen}, all, stay)
	}
	c.await(0)
	time.Sleep(silence)
	expectRest(t)
	c.open(0)
	c.wait()
}

// stayNowAndThen has bytes come at any moment in the course of becoming idle.
func stayNowAndThen(w way, stay func()) {
	w.start()
	w.from.expectEcho(w.to, "hello")
	stay()
	for end := time.Now().Add(silence / 2); time.Now().Before(end); {
		time.Sleep(rand.N(silence / 2))
		w.from.expectEcho(w.to, message(1+rand.IntN(30_000)))
	}
}

// expectRest checks that the process has nothing to do. Something that goes
// round in circles takes all of a processor, or its share of it if others on
// the machine want it too, and does so all the time. Whatever else takes time
// in a process that waits, such as garbage collection, comes to an end. So the
// least of several periods counts, and the limit is far above what rest takes,
// which is some thousandths, and below the share of one among many.
func expectRest(t *testing.T) {
	t.Helper()
	const (
		period = 500 * time.Millisecond
		limit  = period / 10
	)
	var used []time.Duration
	for range 5 {
		before := cpuTime(t)
		time.Sleep(period)
		took := cpuTime(t) - before
		if took < limit {
			return
		}
		used = append(used, took)
	}
	t.Errorf("at rest, %v of CPU time were used in periods of %v", used, period)
}

package evict

import (
	"slices"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// So many failures within this time have an upstream avoided.
const (
	fails        = 3
	failDuration = 10 * time.Second
	slowStart    = 100 * time.Second
)

// watching is a rebalancing site that avoids upstreams which fail.
func watching(dials ...string) *site {
	s := rebalancing(0.1, dials...)
	s.passive = upstream.FailureLimits{Max: fails, Duration: failDuration}
	return s
}

func TestTunnelsMoveToWhatHasRecovered(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := watching(hostA, hostB, hostC)
		f.enter(h)
		f.fail(h, 2, fails)
		f.open(300)
		f.expect(0, map[string]int{hostA: 150, hostB: 150, hostC: 0})
		time.Sleep(failDuration + pause - 1)
		f.expectClosings(0, "before it has worked for an interval")
		time.Sleep(forLong)
		f.expect(5, map[string]int{hostA: 100, hostB: 100, hostC: 100})
		f.expectPace(pause, 10)
	})
}

// An upstream that comes and goes must not have tunnels closed at the others,
// for which it is of no use.
func TestNothingMovesToWhatComesAndGoes(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := watching(hostA, hostB, hostC)
		f.enter(h)
		f.fail(h, 2, fails)
		f.open(300)
		for range 20 {
			time.Sleep(failDuration + pause/2)
			f.fail(h, 2, fails)
		}
		f.expectClosings(0, "in all")
		f.expect(0, map[string]int{hostA: 150, hostB: 150, hostC: 0})
		time.Sleep(failDuration)
	})
}

// An event counts from its own time on, also if another one was there before it.
func TestNothingMovesToWhatComesAndGoesFaster(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := watching(hostA, hostB, hostC)
		const down = pause / 2
		h.passive.Duration = down
		f.enter(h)
		f.fail(h, 2, fails)
		f.open(300)
		for range 20 {
			time.Sleep(down + pause*9/20) // up when the first interval is over
			f.fail(h, 2, fails)
		}
		f.expectClosings(0, "in all")
		time.Sleep(down)
	})
}

func TestSecondNewcomerHasItsSlowStart(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := watching(hostA, hostB, hostC)
		h.slowStart = slowStart
		f.enter(h)
		f.operate(upstream.Drain, hostB, hostC)
		f.open(100)
		f.operate(upstream.Ready, hostB)
		time.Sleep(slowStart / 2)
		f.operate(upstream.Ready, hostC)
		time.Sleep(slowStart - 1)
		f.expectClosings(0, "during the slow start")
		time.Sleep(forLong)
	})
}

func TestRebalancingWaitsForTheSlowStart(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := watching(hostA, hostB)
		h.slowStart = slowStart
		f.enter(h)
		f.openWithout(hostB, 100)
		time.Sleep(slowStart - 1)
		f.expectClosings(0, "during the slow start")
		time.Sleep(forLong)
		f.expect(3, map[string]int{hostA: 50, hostB: 50})
	})
}

func TestTunnelsMoveToWhatIsFound(t *testing.T) {
	inFlock(t, func(f *flock) {
		s := rebalancing(0.2, hostC)
		f.enter(s)
		s.pool.Grow(1, false)
		find := func(found ...string) {
			var all, joined []*upstream.Endpoint
			for _, address := range found {
				standing := s.pool.Standing()
				i := slices.IndexFunc(standing, func(e *upstream.Endpoint) bool { return e.Host.Address == address })
				if i >= 0 {
					all = append(all, standing[i])
					continue
				}
				e := upstream.NewEndpoint(&upstream.Server{Weight: 1}, upstream.Address{Network: "tcp", HostPort: address})
				e.Host = f.table.Name(address, "a source")
				f.t.Cleanup(func() { f.table.Unname(e.Host, "a source", true) })
				all, joined = append(all, e), append(joined, e)
			}
			s.pool.Set(0, all)
			f.evictor.Discovered(joined, nil)
		}
		find(hostA, hostB)
		f.open(300)
		f.expect(0, map[string]int{hostA: 100, hostB: 100, hostC: 100})
		find(hostA, hostB, "d.test:80")
		time.Sleep(forLong)
		f.expect(5, map[string]int{hostA: 75, hostB: 75, hostC: 75, "d.test:80": 75})
		// What has not changed is left alone.
		find("d.test:80", hostB, hostA)
		f.expectStopped("without need")
	})
}

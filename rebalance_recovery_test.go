package websocketproxy

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestTunnelsMoveToWhatHasRecovered(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA, hostB, hostC)
		f.load(h)
		f.visit(h)
		fail(h, 2, defaultMaxFails)
		f.open(300)
		f.expect(0, map[string]int{hostA: 150, hostB: 150, hostC: 0})
		time.Sleep(defaultFailDuration + pause - 1)
		if got := f.closings(); got != 0 {
			t.Errorf("%d tunnels were closed before it has worked for an interval", got)
		}
		time.Sleep(forLong)
		f.expect(5, map[string]int{hostA: 100, hostB: 100, hostC: 100})
		f.expectPace(pause, 10)
	})
}

// An upstream that comes and goes must not have tunnels closed at the others,
// for which it is of no use.
func TestNothingMovesToWhatComesAndGoes(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA, hostB, hostC)
		f.load(h)
		f.visit(h)
		fail(h, 2, defaultMaxFails)
		f.open(300)
		for range 20 {
			time.Sleep(defaultFailDuration + pause/2)
			fail(h, 2, defaultMaxFails)
		}
		if got := f.closings(); got != 0 {
			t.Errorf("%d tunnels were closed", got)
		}
		f.expect(0, map[string]int{hostA: 150, hostB: 150, hostC: 0})
		time.Sleep(defaultFailDuration)
	})
}

// An event counts from its own time on, also if another one was there before it.
func TestNothingMovesToWhatComesAndGoesFaster(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA, hostB, hostC)
		const down = pause / 2
		h.HealthChecks = &HealthChecks{Passive: &PassiveHealthChecks{FailDuration: caddy.Duration(down)}}
		f.load(h)
		f.visit(h)
		fail(h, 2, defaultMaxFails)
		f.open(300)
		for range 20 {
			time.Sleep(down + pause*9/20) // up when the first interval is over
			fail(h, 2, defaultMaxFails)
		}
		if got := f.closings(); got != 0 {
			t.Errorf("%d tunnels were closed", got)
		}
		time.Sleep(down)
	})
}

func TestSecondNewcomerHasItsSlowStart(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA, hostB, hostC)
		h.LoadBalancing.SlowStart = caddy.Duration(slowStart)
		f.load(h)
		f.visit(h)
		operate(upstream.Drain, hostB, hostC)
		f.open(100)
		operate(upstream.Ready, hostB)
		time.Sleep(slowStart / 2)
		operate(upstream.Ready, hostC)
		time.Sleep(slowStart - 1)
		if got := f.closings(); got != 0 {
			t.Errorf("%d tunnels were closed during the slow start", got)
		}
		time.Sleep(forLong)
	})
}

func TestRebalancingWaitsForTheSlowStart(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA, hostB)
		h.LoadBalancing.SlowStart = caddy.Duration(slowStart)
		f.load(h)
		f.visit(h)
		operate(upstream.Drain, hostB)
		f.open(100)
		operate(upstream.Ready, hostB)
		time.Sleep(slowStart - 1)
		if got := f.closings(); got != 0 {
			t.Errorf("%d tunnels were closed during the slow start", got)
		}
		time.Sleep(forLong)
		f.expect(3, map[string]int{hostA: 50, hostB: 50})
	})
}

package websocketproxy

import (
	"math"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/balance"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// operate gives upstreams a state.
func operate(state string, addresses ...string) {
	for _, address := range addresses {
		// It says that it could not be stored.
		_ = operators.Set(nil, address, upstream.State{State: state, At: time.Now()}) //nolint:staticcheck // no context
	}
}

const (
	hostA, hostB, hostC = "a.test:80", "b.test:80", "c.test:80"
	pause               = 10 * time.Second
	// forLong is more than rebalancing can take.
	forLong = 2 * maxRebalanceSteps * pause
)

func rebalancing(share float64, dials ...string) *Handler {
	return &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{Rebalance: &Rebalance{Share: share}},
	}
}

func TestTunnelsMoveToWhatIsReadyAgain(t *testing.T) {
	for name, share := range map[string]float64{"a tenth at a time": 0.1, "all at once": 1, "slowly": 0.05} {
		t.Run(name, func(t *testing.T) {
			inFlock(t, func(f *flock) {
				h := rebalancing(share, hostA, hostB, hostC)
				f.load(h)
				f.visit(h)
				operate(upstream.Drain, hostC)
				f.open(300)
				f.expect(0, map[string]int{hostA: 150, hostB: 150, hostC: 0})
				time.Sleep(pause)
				operate(upstream.Ready, hostC)
				time.Sleep(pause - 1)
				if got, want := f.closings(), int(100*share); got != want {
					t.Errorf("%d tunnels were closed by the first step, want %d", got, want)
				}
				time.Sleep(forLong)
				f.expect(5, map[string]int{hostA: 100, hostB: 100, hostC: 100})
				f.expectPace(pause, int(100*share))
				if how, _ := h.loaded.rebalance.due(f.live.Collect(nil)[0]); how.Code != frame.StatusServiceRestart {
					t.Errorf("the status is %d, want 1012", how.Code)
				}
			})
		})
	}
}

func TestNothingMovesWithoutRebalancing(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := &Handler{Upstreams: upstreams(hostA, hostB)}
		unload := f.load(h)
		f.visit(h)
		operate(upstream.Drain, hostB)
		f.open(50)
		operate(upstream.Ready, hostB)
		time.Sleep(forLong)
		f.reload(&Handler{Upstreams: upstreams(hostA, hostB, hostC)}, unload)
		time.Sleep(forLong)
		if got := f.closings(); got != 0 {
			t.Errorf("%d tunnels were closed", got)
		}
	})
}

func TestTunnelsMoveToWhatAReloadBrings(t *testing.T) {
	for name, before := range map[string]*Handler{
		"with rebalancing":    rebalancing(0.2, hostA, hostB),
		"that also begins it": {Upstreams: upstreams(hostA, hostB)},
	} {
		t.Run(name, func(t *testing.T) {
			inFlock(t, func(f *flock) {
				unload := f.load(before)
				f.visit(before)
				f.open(300)
				f.reload(rebalancing(0.2, hostA, hostB, hostC), unload)
				time.Sleep(forLong)
				f.expect(5, map[string]int{hostA: 100, hostB: 100, hostC: 100})
			})
		})
	}
}

func TestRebalancingBeginsWhenTheConfigurationIsInForce(t *testing.T) {
	inFlock(t, func(f *flock) {
		before := rebalancing(0.2, hostA, hostB)
		unload := f.load(before)
		f.visit(before)
		f.open(30)
		failing := rebalancing(0.2, hostA, hostB, hostC)
		unloadFailed := f.load(failing)
		failing.startJoined() // an app that is started after this one fails
		time.Sleep(forLong)
		unloadFailed()
		time.Sleep(forLong)
		if got := f.closings(); got != 0 {
			t.Errorf("%d tunnels were closed for a configuration that was never in force", got)
		}
		after := rebalancing(1, hostA, hostB, hostC)
		f.load(after)
		operate(upstream.Drain, hostB)
		operate(upstream.Ready, hostB)
		after.startJoined()
		f.visit(after)
		unload()
		time.Sleep(forLong)
		f.expect(1, map[string]int{hostA: 10, hostB: 10, hostC: 10})
	})
}

func TestEventBelongsToTheConfigurationInForce(t *testing.T) {
	inFlock(t, func(f *flock) {
		before := rebalancing(0.1, hostA, hostB)
		f.load(before)
		f.visit(before)
		operate(upstream.Drain, hostB)
		f.open(200)
		f.load(rebalancing(1, hostA, hostB))
		operate(upstream.Ready, hostB)
		time.Sleep(pause - 1)
		if got, want := f.closings(), 10; got != want {
			t.Errorf("%d tunnels were closed by the first step, want %d", got, want)
		}
	})
}

// That tunnels are uneven by itself is no reason to close some.
func TestReloadWithoutNewUpstreamMovesNothing(t *testing.T) {
	inFlock(t, func(f *flock) {
		onlyA := &Handler{Upstreams: upstreams(hostA)}
		f.load(onlyA)
		f.visit(onlyA)
		f.open(50) // of others
		unload := f.load(rebalancing(0.2, hostA, hostB))
		f.reload(rebalancing(0.2, hostB, hostA), unload)
		time.Sleep(forLong)
		if got := f.closings(); got != 0 {
			t.Errorf("%d tunnels were closed", got)
		}
	})
}

func TestRebalancingGoesOnAfterAReload(t *testing.T) {
	inFlock(t, func(f *flock) {
		unload := f.load(rebalancing(0.2, hostA, hostB))
		h := rebalancing(0.2, hostA, hostB)
		unload = f.reload(h, unload)
		f.open(300)
		unload = f.reload(rebalancing(0.2, hostA, hostB, hostC), unload)
		for range 30 { // more often than there are steps
			time.Sleep(pause / 4)
			unload = f.reload(rebalancing(0.2, hostA, hostB, hostC), unload)
		}
		time.Sleep(forLong)
		f.expect(5, map[string]int{hostA: 100, hostB: 100, hostC: 100})
		f.expectPace(pause, 20)
	})
}

func TestReloadThatBringsAnotherUpstreamKeepsThePace(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA, hostB)
		unload := f.load(h)
		f.visit(h)
		f.open(300)
		unload = f.reload(rebalancing(0.1, hostA, hostB, hostC), unload)
		time.Sleep(pause / 4 * 3)
		f.reload(rebalancing(0.1, hostA, hostB, hostC, "d.test:80"), unload)
		time.Sleep(forLong)
		f.expect(4, map[string]int{hostA: 75, hostB: 75, hostC: 75, "d.test:80": 75})
		f.expectPace(pause, 15)
	})
}

func TestEventDuringAStepIsNotMissed(t *testing.T) {
	b := &rebalancer{run: &rebalanceRun{steps: 3, before: 0.5}}
	loadedPools.mu.Lock()
	b.beginLocked(time.Time{})
	loadedPools.mu.Unlock()
	// What was measured says that it is level, but that was before.
	if n, more := b.decide(balance.LevelsOf([]balance.Load{{Tunnels: 1, Movable: 1, Weight: 1}, {Tunnels: 1, Movable: 1, Weight: 1}})); n != 0 || !more || b.run == nil || b.run.steps != 0 {
		t.Errorf("closes %d (more: %v) and is at %+v, want to measure again", n, more, b.run)
	}
}

func TestWhatEndsIsNotCounted(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(1, hostA, hostB)
		f.load(h)
		f.visit(h)
		held := f.openOver(h, func(hooks relay.Hooks) relay.Relay { return &stubborn{sheep{hooks: hooks}} })
		f.open(9)
		held.End(tunnel.Ending{Reason: tunnel.Killed, Code: 1000})
		_, loads, movable := h.loaded.rebalance.measure()
		if got := loads[0].Tunnels + loads[1].Tunnels; got != 9 || len(movable[0])+len(movable[1]) != 9 {
			t.Errorf("%d tunnels are counted, and %d and %d may be closed; want 9", got, len(movable[0]), len(movable[1]))
		}
	})
}

// A step may be due just when the configuration is unloaded.
func TestStepWithoutConfigurationDecidesNothing(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.2, hostA, hostB)
		unload := f.load(h)
		f.visit(h)
		operate(upstream.Drain, hostB)
		f.open(100)
		operate(upstream.Ready, hostB)
		time.Sleep(pause / 4)
		unload()
		b := h.loaded.rebalance
		if closing, _, more := b.step(); len(closing) > 0 || more || b.run == nil {
			t.Errorf("%d tunnels would be closed (more: %v), and the run is %v; want it to be left to others",
				len(closing), more, b.run)
		}
	})
}

func TestUpstreamDisappearsWhileRebalancing(t *testing.T) {
	inFlock(t, func(f *flock) {
		unload := f.load(rebalancing(0.1, hostA, hostB))
		unload = f.reload(rebalancing(0.1, hostA, hostB), unload)
		f.open(300)
		unload = f.reload(rebalancing(0.1, hostA, hostB, hostC), unload)
		time.Sleep(pause + pause/2)
		f.reload(rebalancing(0.1, hostA, hostB), unload)
		before := f.closings()
		time.Sleep(forLong)
		if got := f.closings(); got != before {
			t.Errorf("%d tunnels were closed after the upstream was gone", got-before)
		}
	})
}

func TestStepInVainEndsRebalancing(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA, hostB)
		f.load(h)
		f.visit(h)
		operate(upstream.Drain, hostB)
		f.open(100)
		f.stayAway()
		operate(upstream.Ready, hostB)
		time.Sleep(forLong)
		if got, want := f.closings(), 5; got != want {
			t.Errorf("%d tunnels were closed whose clients do not come back, want those of one step, %d", got, want)
		}
		operate(upstream.Drain, hostB)
		operate(upstream.Ready, hostB) // which is worth another try
		time.Sleep(forLong)
		if got, want := f.closings(), 10; got != want {
			t.Errorf("%d tunnels were closed, want %d", got, want)
		}
	})
}

func TestDrainingEndsTheStep(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(1, hostA, hostB)
		f.load(h)
		f.visit(h)
		operate(upstream.Drain, hostB)
		f.open(1000)
		operate(upstream.Ready, hostB)
		time.Sleep(pause / 10)
		operate(upstream.Drain, hostA)
		defer operate(upstream.Ready, hostA)
		before := f.closings()
		if before == 0 {
			t.Error("nothing was closed before that")
		}
		time.Sleep(forLong)
		if got := f.closings(); got != before {
			t.Errorf("%d tunnels were closed at an upstream that drains", got-before)
		}
	})
}

// Clients of what is closed then would only come back to where they were.
func TestStepEndsWhenItsTargetHasGone(t *testing.T) {
	for name, gone := range map[string]func(h *Handler){
		"drained": func(*Handler) { operate(upstream.Drain, hostB) },
		"down":    func(h *Handler) { hosts.Report(hosts.Judge(h.pool.Fixed[1], "a check"), "bad", 1, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			inFlock(t, func(f *flock) {
				h := rebalancing(1, hostA, hostB)
				f.load(h)
				f.visit(h)
				operate(upstream.Drain, hostB)
				f.open(1000)
				operate(upstream.Ready, hostB)
				time.Sleep(pause / 10)
				gone(h)
				defer operate(upstream.Ready, hostB)
				before := f.closings()
				if before == 0 {
					t.Error("nothing was closed before that")
				}
				time.Sleep(forLong)
				if got := f.closings(); got != before {
					t.Errorf("%d tunnels were closed for an upstream that gets none", got-before)
				}
				if h.pool.Fixed[1].Verdict != nil {
					hosts.Unjudge(h.pool.Fixed[1])
				}
			})
		})
	}
}

// What was closed for nobody says nothing about whether closing helps.
func TestStepInVainDoesNotCount(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(1, hostA, hostB, hostC)
		f.load(h)
		b := h.loaded.rebalance
		b.run = &rebalanceRun{steps: 3, before: 0.5}
		b.takeBack()
		if b.run.steps != 2 || !math.IsInf(b.run.before, 1) {
			t.Errorf("the run is at %+v", b.run)
		}
		b.run = nil
	})
}

func TestEventStartsRebalancingAnew(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.01, hostA, hostB, hostC) // too little to come to an end
		f.load(h)
		f.visit(h)
		operate(upstream.Drain, hostB, hostC)
		f.open(1000)
		operate(upstream.Ready, hostB)
		time.Sleep(10*pause - pause/4)
		if got, want := f.closings(), 10*5; got != want {
			t.Errorf("%d tunnels were closed by ten steps, want %d", got, want)
		}
		operate(upstream.Ready, hostC)
		time.Sleep(forLong)
		// Of the tunnels at a, 950, two thirds should be elsewhere but for those
		// that b has.
		if got, want := f.closings(), 10*5+maxRebalanceSteps*7; got != want {
			t.Errorf("%d tunnels were closed after another event, want %d", got, want)
		}
		f.expectPace(pause, 7)
	})
}

func TestUnloadingEndsRebalancing(t *testing.T) {
	for name, end := range map[string]func(f *flock, unload func()){
		"the configuration": func(_ *flock, unload func()) { unload() },
		"the process":       func(f *flock, _ func()) { f.live.ShutDown() },
	} {
		t.Run(name, func(t *testing.T) {
			inFlock(t, func(f *flock) {
				h := rebalancing(1, hostA, hostB)
				unload := f.load(h)
				f.visit(h)
				operate(upstream.Drain, hostB)
				f.open(100)
				operate(upstream.Ready, hostB)
				time.Sleep(pause / 4)
				f.stayAway()
				before, now := f.closings(), time.Now()
				end(f, unload)
				if waited := time.Since(now); waited != 0 {
					t.Errorf("it took %v", waited)
				}
				h.loaded.rebalance.running.Wait()
				if waited := time.Since(now); waited > pause/2 {
					t.Errorf("the goroutine went on for %v", waited)
				}
				time.Sleep(forLong)
				if got := f.closings(); got != before || before == 0 || before == 50 {
					t.Errorf("%d tunnels were closed, and %d afterwards", before, got-before)
				}
			})
		})
	}
}

func TestRebalancingClosesIdleTunnelsFirst(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA, hostB)
		f.load(h)
		f.visit(h)
		operate(upstream.Drain, hostB)
		f.open(100)
		time.Sleep(time.Second)
		busy := f.open(100)
		operate(upstream.Ready, hostB)
		time.Sleep(9 * pause)
		f.closings()
		for _, opened := range busy {
			if f.hasEnded(opened) {
				t.Fatal("a busy tunnel was closed while there were idle ones")
			}
		}
		time.Sleep(forLong)
		f.expect(5, map[string]int{hostA: 100, hostB: 100})
	})
}

func TestRebalancingLeavesTunnelsOfOthersAlone(t *testing.T) {
	inFlock(t, func(f *flock) {
		ours, named := rebalancing(1, hostA, hostB, hostC), &Handler{Name: "x", Upstreams: upstreams(hostA, hostB, hostC)}
		other := &Handler{Upstreams: upstreams(hostA, hostB)}
		template := &Handler{Upstreams: upstreams("{backend}", hostA)}
		alike := &Handler{Upstreams: upstreams(hostA, hostB, hostC)}
		var others []*tunnel.Tunnel
		config := make(chan struct{})
		for _, h := range []*Handler{ours, named, other, template, alike} {
			f.load(h)
			h.loaded.config = config
		}
		operate(upstream.Drain, hostC)
		for _, h := range []*Handler{named, other, template, alike} {
			f.visit(h)
			others = append(others, f.open(10)...)
		}
		f.visit(ours)
		f.open(20)
		f.expect(0, map[string]int{hostA: 30, hostB: 30})
		operate(upstream.Ready, hostC)
		time.Sleep(forLong)
		if got, want := f.closings(), 20; got != want {
			t.Errorf("%d tunnels were closed, want %d", got, want)
		}
		for _, opened := range others {
			if f.hasEnded(opened) {
				t.Error("a tunnel of another handler was closed")
			}
		}
	})
}

// A site at two addresses has two handlers, and is balanced as one.
func TestAlikeHandlersAreRebalancedOnce(t *testing.T) {
	inFlock(t, func(f *flock) {
		config := make(chan struct{})
		first, second := rebalancing(0.1, hostA, hostB), rebalancing(0.1, hostB, hostA)
		for _, h := range []*Handler{first, second} {
			f.load(h)
			h.loaded.config = config
		}
		operate(upstream.Drain, hostB)
		f.visit(first)
		f.open(100)
		f.visit(second)
		f.open(100)
		operate(upstream.Ready, hostB)
		time.Sleep(forLong)
		f.expectPace(pause, 10)
		f.expect(5, map[string]int{hostA: 100, hostB: 100})
	})
}

func TestAddressGivenTwiceIsOneUpstream(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(1, hostA, hostB, hostB)
		h.Upstreams[1].MaxTunnels, h.Upstreams[2].MaxTunnels = 10, 40
		f.load(h)
		f.visit(h)
		operate(upstream.Drain, hostB)
		f.open(90)
		operate(upstream.Ready, hostB)
		time.Sleep(forLong)
		f.expect(0, map[string]int{hostA: 50, hostB: 40})
	})
}

func TestNoPoolIsHeldAtTheEnd(t *testing.T) {
	unload := load(t, rebalancing(0.1, hostA))
	unload()
	loadedPools.mu.Lock()
	defer loadedPools.mu.Unlock()
	if len(loadedPools.all) != 0 {
		t.Errorf("%d pools are loaded", len(loadedPools.all))
	}
}

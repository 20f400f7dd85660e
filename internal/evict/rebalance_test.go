package evict

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

const (
	hostA, hostB, hostC = "a.test:80", "b.test:80", "c.test:80"
	pause               = 10 * time.Second
	// forLong is more than rebalancing can take.
	forLong = 2 * maxSteps * pause
)

func TestTunnelsMoveToWhatIsReadyAgain(t *testing.T) {
	for name, share := range map[string]float64{"a tenth at a time": 0.1, "all at once": 1, "slowly": 0.05} {
		t.Run(name, func(t *testing.T) {
			inFlock(t, func(f *flock) {
				h := rebalancing(share, hostA, hostB, hostC)
				f.enter(h)
				f.operate(upstream.Drain, hostC)
				f.open(300)
				f.expect(0, map[string]int{hostA: 150, hostB: 150, hostC: 0})
				time.Sleep(pause)
				f.operate(upstream.Ready, hostC)
				time.Sleep(pause - 1)
				f.expectClosings(int(100*share), "by the first step")
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
		h := plain(hostA, hostB)
		unload := f.enter(h)
		f.openWithout(hostB, 50)
		time.Sleep(forLong)
		f.reload(plain(hostA, hostB, hostC), unload)
		time.Sleep(forLong)
		f.expectClosings(0, "in all")
	})
}

func TestTunnelsMoveToWhatAReloadBrings(t *testing.T) {
	for name, before := range map[string]*site{
		"with rebalancing":    rebalancing(0.2, hostA, hostB),
		"that also begins it": {dials: []string{hostA, hostB}},
	} {
		t.Run(name, func(t *testing.T) {
			inFlock(t, func(f *flock) {
				unload := f.enter(before)
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
		unload := f.enter(before)
		f.open(30)
		failing := rebalancing(0.2, hostA, hostB, hostC)
		unloadFailed := f.load(failing)
		f.evictor.Start(failing.loaded) // an app that is started after this one fails
		time.Sleep(forLong)
		unloadFailed()
		time.Sleep(forLong)
		f.expectClosings(0, "for a configuration that was never in force")
		after := rebalancing(1, hostA, hostB, hostC)
		f.load(after)
		f.operate(upstream.Drain, hostB)
		f.operate(upstream.Ready, hostB)
		f.evictor.Start(after.loaded)
		f.visit(after)
		unload()
		time.Sleep(forLong)
		f.expect(1, map[string]int{hostA: 10, hostB: 10, hostC: 10})
	})
}

func TestEventBelongsToTheConfigurationInForce(t *testing.T) {
	inFlock(t, func(f *flock) {
		before := rebalancing(0.1, hostA, hostB)
		f.enter(before)
		f.operate(upstream.Drain, hostB)
		f.open(200)
		f.load(rebalancing(1, hostA, hostB))
		f.operate(upstream.Ready, hostB)
		time.Sleep(pause - 1)
		f.expectClosings(10, "by the first step")
	})
}

// That tunnels are uneven by itself is no reason to close some.
func TestReloadWithoutNewUpstreamMovesNothing(t *testing.T) {
	inFlock(t, func(f *flock) {
		onlyA := plain(hostA)
		f.enter(onlyA)
		f.open(50) // of others
		unload := f.load(rebalancing(0.2, hostA, hostB))
		f.reload(rebalancing(0.2, hostB, hostA), unload)
		time.Sleep(forLong)
		f.expectClosings(0, "in all")
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
		unload := f.enter(h)
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
	b := newRebalancer(new(Evictor), &Pool{Config: Config{Pool: new(upstream.Pool)}})
	b.run = &rebalanceRun{steps: 3, before: 0.5}
	b.begin(time.Time{})
	// What was measured says that it is level, but that was before.
	if n, more := b.decide(balance.LevelsOf([]balance.Load{{Tunnels: 1, Movable: 1, Weight: 1}, {Tunnels: 1, Movable: 1, Weight: 1}})); n != 0 || !more || b.run == nil || b.run.steps != 0 {
		t.Errorf("closes %d (more: %v) and is at %+v, want to measure again", n, more, b.run)
	}
}

func TestWhatEndsIsNotCounted(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(1, hostA, hostB)
		f.enter(h)
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
		unload := f.enter(h)
		f.openWithout(hostB, 100)
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
		f.expectStopped("after the upstream was gone")
	})
}

func TestStepInVainEndsRebalancing(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(0.1, hostA, hostB)
		f.enter(h)
		f.operate(upstream.Drain, hostB)
		f.open(100)
		f.stayAway()
		f.operate(upstream.Ready, hostB)
		time.Sleep(forLong)
		f.expectClosings(5, "by one step, whose clients do not come back")
		f.operate(upstream.Drain, hostB)
		f.operate(upstream.Ready, hostB) // which is worth another try
		time.Sleep(forLong)
		f.expectClosings(10, "in all")
	})
}

func TestDrainingEndsTheStep(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(1, hostA, hostB)
		f.enter(h)
		f.openWithout(hostB, 1000)
		time.Sleep(pause / 10)
		f.operate(upstream.Drain, hostA)
		defer f.operate(upstream.Ready, hostA)
		f.expectStopped("at an upstream that drains")
	})
}

// Clients of what is closed then would only come back to where they were.
func TestStepEndsWhenItsTargetHasGone(t *testing.T) {
	for name, gone := range map[string]func(f *flock, h *site){
		"drained": func(f *flock, _ *site) { f.operate(upstream.Drain, hostB) },
		"closed":  func(f *flock, _ *site) { f.operate(upstream.Maint, hostB) },
		"down":    func(f *flock, h *site) { f.table.Report(f.table.Judge(h.pool.Fixed[1], "a check"), "bad", 1, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			inFlock(t, func(f *flock) {
				h := rebalancing(1, hostA, hostB)
				f.enter(h)
				f.openWithout(hostB, 1000)
				time.Sleep(pause / 10)
				gone(f, h)
				defer f.operate(upstream.Ready, hostB)
				f.expectStopped("for an upstream that gets none")
				if h.pool.Fixed[1].Verdict != nil {
					f.table.Unjudge(h.pool.Fixed[1])
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
		f.enter(h)
		f.operate(upstream.Drain, hostB, hostC)
		f.open(1000)
		f.operate(upstream.Ready, hostB)
		time.Sleep(10*pause - pause/4)
		f.expectClosings(10*5, "by ten steps")
		f.operate(upstream.Ready, hostC)
		time.Sleep(forLong)
		// Of the tunnels at a, 950, two thirds should be elsewhere but for those
		// that b has.
		f.expectClosings(10*5+maxSteps*7, "after another event")
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
				unload := f.enter(h)
				f.openWithout(hostB, 100)
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
		f.enter(h)
		f.operate(upstream.Drain, hostB)
		f.open(100)
		time.Sleep(time.Second)
		busy := f.open(100)
		f.operate(upstream.Ready, hostB)
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
		ours, named := rebalancing(1, hostA, hostB, hostC), &site{name: "x", dials: []string{hostA, hostB, hostC}}
		other := plain(hostA, hostB)
		template := plain("{backend}", hostA)
		alike := plain(hostA, hostB, hostC)
		var others []*tunnel.Tunnel
		config := make(chan struct{})
		for _, h := range []*site{ours, named, other, template, alike} {
			h.unloaded = config
			f.load(h)
		}
		f.operate(upstream.Drain, hostC)
		for _, h := range []*site{named, other, template, alike} {
			f.visit(h)
			others = append(others, f.open(10)...)
		}
		f.visit(ours)
		f.open(20)
		f.expect(0, map[string]int{hostA: 30, hostB: 30})
		f.operate(upstream.Ready, hostC)
		time.Sleep(forLong)
		f.expectClosings(20, "in all")
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
		for _, h := range []*site{first, second} {
			h.unloaded = config
			f.load(h)
		}
		f.operate(upstream.Drain, hostB)
		f.visit(first)
		f.open(100)
		f.visit(second)
		f.open(100)
		f.operate(upstream.Ready, hostB)
		time.Sleep(forLong)
		f.expectPace(pause, 10)
		f.expect(5, map[string]int{hostA: 100, hostB: 100})
	})
}

func TestAddressGivenTwiceIsOneUpstream(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := rebalancing(1, hostA, hostB, hostB)
		h.max = []int{0, 10, 40}
		f.enter(h)
		f.openWithout(hostB, 90)
		time.Sleep(forLong)
		f.expect(0, map[string]int{hostA: 50, hostB: 40})
	})
}

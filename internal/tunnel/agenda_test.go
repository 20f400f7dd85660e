package tunnel

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const day = 24 * time.Hour

func TestAllWhoEndTunnelsOneByOneShareAGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 1000
		live, before := NewRegistry(nil), runtime.NumGoroutine()
		for range calls {
			live.EndOneByOne(pacedTunnels(1), day, killedAll)
		}
		synctest.Wait()
		if more := runtime.NumGoroutine() - before; more > calls/10 { // others come and go
			t.Errorf("%d goroutines for %d calls", more, calls)
		}
		<-live.ShutDown()
	})
}

func TestTunnelThatIsToEndTwiceDoesSoAtTheEarlierTime(t *testing.T) {
	tests := map[string][]time.Duration{
		"the later call is slower": {time.Minute, day},
		"the later call is faster": {day, time.Minute},
	}
	for name, periods := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				live, began, held := NewRegistry(nil), time.Now(), pacedTunnels(1)[0]
				ended := make(chan struct{}, len(periods))
				held.relay = &toldRelay{told: func() { ended <- struct{}{} }}
				for _, period := range periods {
					live.EndOneByOne([]*Tunnel{held}, period, killedAll)
					synctest.Wait()
				}
				<-ended
				if took := time.Since(began); took > time.Minute {
					t.Errorf("it ends after %v, want a minute at most", took)
				}
				synctest.Wait()
				if live.pacer.awake != nil {
					t.Error("there is still something to do")
				}
			})
		})
	}
}

// Somebody else may want it for longer.
func TestTunnelIsEndedForTheCauseThatLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live, held := NewRegistry(nil), pacedTunnels(1)[0]
		ended := make(chan struct{}, 2)
		held.relay = &toldRelay{told: func() { ended <- struct{}{} }}
		var unwanted atomic.Bool
		live.EndOneByOne([]*Tunnel{held}, time.Hour, func(*Tunnel) (Ending, bool) { return Ending{Reason: Evicted}, !unwanted.Load() })
		live.EndOneByOne([]*Tunnel{held}, day, killedAll)
		synctest.Wait()
		unwanted.Store(true)
		<-ended
		if held.why != Killed {
			t.Errorf("ended by %s, want %s", held.why, Killed)
		}
	})
}

func TestWhatBeginsIsToldOnceForEachCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live, tunnels := NewRegistry(nil), pacedTunnels(3)
		for i, at := range []string{"a:1", "b:1", "a:1"} {
			tunnels[i].Upstream = at
		}
		var told []Move
		live.OnMove(func(all []Move) { told = append(told, all...) })
		by := func(who string) func(*Tunnel) (Ending, bool) {
			return func(*Tunnel) (Ending, bool) { return Ending{Reason: Evicted, By: who}, true }
		}
		live.EndOneByOne(tunnels, day, by("reload"))
		synctest.Wait()
		live.EndOneByOne(tunnels, time.Hour, by("reload")) // the same, but faster
		synctest.Wait()
		live.EndOneByOne(tunnels[1:2], time.Hour, by("me"))
		synctest.Wait()
		if len(told) != 2 || told[0].Tunnels != 3 || told[0].By != "reload" || len(told[0].Upstreams) != 2 ||
			told[1].Tunnels != 1 || told[1].By != "me" || told[1].Upstreams[0] != "b:1" || told[1].Reason != Evicted {
			t.Errorf("told are %+v", told)
		}
		<-live.ShutDown()
	})
}

package tunnel

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// expectOrder checks that tunnels know their places, by when they are due, and returns
// how many they are.
func (r *Registry) expectOrder(t *testing.T) (total int) {
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		for i, held := range shard.tunnels {
			if held.index != i {
				t.Errorf("tunnel %d believes to be %d", i, held.index)
			}
			if above := shard.tunnels[max(0, i-1)/2]; above.due > held.due {
				t.Errorf("tunnel %d is due before the one above it", i)
			}
		}
		total += len(shard.tunnels)
		shard.mu.Unlock()
	}
	return total
}

func (r *Registry) expectIntact(t *testing.T, want int) {
	t.Helper()
	total := r.expectOrder(t)
	if total != want || r.Count() != want {
		t.Errorf("%d tunnels are registered and %d counted, want %d", total, r.Count(), want)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if sweeping := r.stop != nil; sweeping != (want > 0) {
		t.Errorf("the sweep runs: %t, with %d tunnels", sweeping, want)
	}
}

// registered makes a tunnel that can be swept: one that relays nothing.
func registered(live *Registry) *Tunnel {
	id := fmt.Sprint(rand.Uint64())
	held := New(About{ID: id}, new(Options), live, freehold{})
	held.relay = new(idleRelay)
	return held
}

type idleRelay struct{ asked atomic.Int32 }

func (r *idleRelay) Counts(relay.Direction) (read, taken uint64) {
	r.asked.Add(1)
	return 0, 0
}

func (*idleRelay) Backlog(relay.Direction) int { return 0 }
func (*idleRelay) GiveUpAfter(time.Duration)   {}
func (*idleRelay) Wake(relay.Direction)        {}
func (*idleRelay) Abort()                      {}
func (*idleRelay) Reset(relay.Direction)       {}

func TestRegistryKeepsItsIndex(t *testing.T) {
	live := NewRegistry(nil)
	random := rand.New(rand.NewPCG(1, 2))
	var all []*Tunnel
	for range 2000 {
		if len(all) == 0 || random.IntN(100) < 52 {
			held := registered(live)
			live.add(held)
			all = append(all, held)
		} else {
			i := random.IntN(len(all))
			live.remove(all[i])
			all[i] = all[len(all)-1]
			all = all[:len(all)-1]
		}
		live.expectIntact(t, len(all))
	}
	for _, held := range all {
		live.remove(held)
	}
	live.expectIntact(t, 0)
}

func TestRegistryIsForManyAtATime(t *testing.T) {
	live := NewRegistry(nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			var all []*Tunnel
			for range 500 {
				if len(all) == 0 || random.IntN(2) == 0 {
					all = append(all, registered(live))
					live.add(all[len(all)-1])
					continue
				}
				live.remove(all[len(all)-1])
				all = all[:len(all)-1]
				live.Collect(nil)
				live.Find("none")
			}
			for _, held := range all {
				live.remove(held)
			}
		})
	}
	wg.Wait()
	live.expectIntact(t, 0)
}

// TestRoundsAmongManyAtATime has tunnels come, go, and be due while the sweep makes its
// rounds without a pause.
func TestRoundsAmongManyAtATime(t *testing.T) {
	live := NewRegistry(nil)
	live.stop = make(chan struct{}) // the rounds are those below
	var others sync.WaitGroup
	for i := range 4 {
		others.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 4))
			var all []*Tunnel
			for len(all) < 300 {
				if len(all) == 0 || random.IntN(5) < 3 {
					held := registered(live)
					held.options = &Options{HalfClose: time.Hour, MaxLifetime: time.Duration(random.IntN(5000)) * time.Second}
					held.setTimes(time.Now(), random.Float64)
					live.add(held)
					all = append(all, held)
				}
				all[random.IntN(len(all))].touch()
				if i := random.IntN(len(all)); random.IntN(5) < 2 {
					live.remove(all[i])
					all[i] = all[len(all)-1]
					all = all[:len(all)-1]
				}
			}
			for _, held := range all {
				live.remove(held)
			}
		})
	}
	over := make(chan struct{})
	go func() { others.Wait(); close(over) }()
	for now := time.Now(); ; now = now.Add(SweepInterval) {
		live.round(now)
		live.expectOrder(t)
		select {
		case <-over:
			live.stop = nil
			live.expectIntact(t, 0)
			return
		default:
		}
	}
}

func TestSweepRunsWhileThereAreTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live := NewRegistry(nil)
		for range 3 {
			first, second := registered(live), registered(live)
			live.add(first)
			live.add(second)
			for range 9 {
				first.touch()
				time.Sleep(SweepInterval)
			}
			for held, least := range map[*Tunnel]int32{first: 9, second: 1} {
				if r, _ := held.relay.(*idleRelay); r.asked.Load() < least || r.asked.Load() > 4*least {
					t.Errorf("a tunnel was asked %d times for its counts, want it in %d rounds", r.asked.Load(), least)
				}
			}
			live.remove(first)
			live.expectIntact(t, 1)
			live.remove(second)
			live.expectIntact(t, 0)
		}
		// The bubble ends only if no sweep is left.
	})
}

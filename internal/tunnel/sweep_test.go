package tunnel

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestRoundsMissNothing has the same happen to two tunnels, of which one is looked at in
// each round of the sweep, and the other when there is a reason: they are active at the
// same times, and end at the same time by the same reason.
func TestRoundsMissNothing(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			always, atNeed := tracedTunnel(t, seed, true), tracedTunnel(t, seed, false)
			if !slices.Equal(always, atNeed) {
				t.Errorf("looked at in each round:\n%s\nlooked at when there is a reason:\n%s",
					strings.Join(always, "\n"), strings.Join(atNeed, "\n"))
			}
		})
	}
}

// tracedTunnel has a random tunnel live a random life, and returns what can be seen of it.
func tracedTunnel(t *testing.T, seed uint64, always bool) (trace []string) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	often := func(d time.Duration) time.Duration { return d * time.Duration(random.IntN(3)+random.IntN(2)) / 2 }
	policy := Options{
		Idle: often(30 * time.Second), Write: often(8 * time.Second), HalfClose: often(10 * time.Second),
		Ping: often(5 * time.Second), MaxLifetime: 3 * time.Minute,
	}
	policy.PingTimeout = 2 * policy.Ping * time.Duration(random.IntN(2))
	inMemory(t, policy, func(m *memoryTunnel) {
		var end time.Duration
		m.others.Go(func() { <-m.done; end = time.Since(m.began) })
		if always {
			m.others.Go(func() {
				for !m.isOver() {
					m.touch()
					time.Sleep(SweepInterval / 2)
				}
			})
		}
		peers := [2]*memoryPeer{m.client, m.upstream}
		for _, p := range peers {
			if random.IntN(2) == 0 {
				m.others.Go(p.react)
			}
		}
		for !m.isOver() {
			i := random.IntN(2)
			what := m.happen(random, peers[i], peers[1-i])
			// Never at the time of a round, of which nobody knows what comes first.
			time.Sleep(time.Duration(random.IntN(1+random.IntN(20)))*time.Second + 9*time.Millisecond)
			synctest.Wait()
			if m.IsOpen() {
				trace = append(trace, fmt.Sprint(time.Since(m.began), " ", what, ": ", m.Snapshot().Active.Sub(m.began), m.meter.now()))
			}
		}
		m.others.Wait()
		trace = append(trace, fmt.Sprint(policy, " ended after ", end, " by ", (<-m.reports).Reason))
	})
	return trace
}

// happen has something happen between two peers.
func (m *memoryTunnel) happen(random *rand.Rand, from, to *memoryPeer) string {
	send := func(raw string) {
		to.in.lag(random.IntN(3) * 100) // of its system, which nobody asks meanwhile
		m.others.Go(func() { _, _ = from.Write([]byte(raw)) })
	}
	switch n := random.IntN(20); {
	case n < 4:
		send(from.frame(testbed.Text, "word"))
		return "word"
	case n < 6:
		send(from.frame(testbed.Ping, "application's"))
		return "ping"
	case n < 8:
		to.in.mu.Lock()
		to.in.room = 100
		to.in.mu.Unlock()
		send(from.frame(testbed.Binary, strings.Repeat("x", 1000)))
		return "stall"
	case n < 11:
		to.in.drop(random.IntN(1500))
		return "some is taken"
	case n < 13:
		to.in.lag(to.in.backlogged() / 2)
		return "less lag"
	case n == 13 && random.IntN(3) == 0:
		_ = from.CloseWrite()
		return "half-close"
	case n == 14:
		m.slept.Add(int64(random.IntN(20)) * int64(time.Second))
		return "sleep"
	case n == 15:
		m.Limit(Deadline{At: m.live.Now().Add(time.Duration(20+random.IntN(60)) * time.Second), Reason: Expired})
		return "limit"
	case n == 16:
		m.RenewFor(time.Minute, 0)
		return "renewal"
	}
	return "nothing"
}

// react says something whenever it gets a ping, and reads all else.
func (p *memoryPeer) react() {
	word := []byte(p.frame(testbed.Text, "here"))
	buf, frames := make([]byte, 2000), frame.NewScanner(!p.masked)
	for {
		n, err := p.Read(buf)
		if err != nil {
			return
		}
		for rest, event := buf[:n], frame.HeaderDone; event != frame.None; {
			n, event = frames.Next(rest)
			rest = rest[n:]
			if event == frame.HeaderDone && frames.Header().Opcode == frame.Ping {
				time.Sleep(5 * time.Millisecond) // until the round that has put it in is over
				_, _ = p.Write(word)
			}
		}
	}
}

// TestATunnelThatHasLeftIsForgotten has the sweep be late with one.
func TestATunnelThatHasLeftIsForgotten(t *testing.T) {
	live := NewRegistry(nil)
	first, second := registered(live), registered(live)
	live.add(first)
	live.add(second)
	s := live.shard(first.ID)
	live.remove(first)
	first.touched.Store(false)
	first.touch()
	s.schedule(first, time.Second)
	if slices.Contains(s.tunnels, first) || len(s.touched) > 1 {
		t.Errorf("%d tunnels are on the list, and %d there", len(s.touched), len(s.tunnels))
	}
	live.remove(second)
	live.expectIntact(t, 0)
}

// TestAnIdleTunnelIsLeftAlone asks how often an idle one is looked at.
func TestAnIdleTunnelIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live, idle, ended := NewRegistry(nil), new(idleRelay), make(chan Outcome, 1)
		held := New(About{ID: "id"}, &Options{Idle: time.Hour, Write: time.Minute, MaxLifetime: 10 * time.Hour}, live, freehold{ended})
		held.Start(func(relay.Hooks) relay.Relay { return idle }, func() float64 { return 0 })
		time.Sleep(time.Hour - SweepInterval)
		if n := idle.asked.Load(); n > 4 {
			t.Errorf("in an hour it was asked %d times for its counts, want one round", n)
		}
		time.Sleep(2 * SweepInterval)
		if held.IsOpen() {
			t.Error("it is open after the time of its end")
		}
		held.Done()
	})
}

// TestTheSweepIsToldOfAPingThatIsDelivered has it look in the middle of a call of a hook.
func TestTheSweepIsToldOfAPingThatIsDelivered(t *testing.T) {
	inMemory(t, pinging, func(m *memoryTunnel) {
		m.pass(2 * time.Second)
		m.pingDelivered(relay.ClientToUpstream)
		if !m.touched.Load() {
			t.Error("it will not be looked at")
		}
	})
}

// TestTheExitIsLookedForAsOftenAsItHasToBe counts how often, while somebody would tell of
// it, and then while nobody would.
func TestTheExitIsLookedForAsOftenAsItHasToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		var exits atomic.Bool
		live := NewRegistry(func() bool { asked.Add(1); return exits.Load() })
		over := live.ExitIsTold()
		live.Begin() // a handshake
		time.Sleep(10*SweepInterval + time.Millisecond)
		if n := asked.Load(); n != 10 {
			t.Errorf("while it is told, it is looked for %d times in ten rounds", n)
		}
		over()
		time.Sleep(SweepInterval)
		exits.Store(true)
		time.Sleep(exitInterval)
		synctest.Wait()
		if !live.exit.hasBegun() {
			t.Errorf("it has not been found after %v", exitInterval)
		}
		live.Finish()
		<-live.ShutDown()
	})
}

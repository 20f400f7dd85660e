package tunnel

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// exiting is a policy with the usual time for the exit of the process.
var exiting = Options{Shutdown: 4 * time.Second}

// exit lets the process be about to exit, and waits until the tunnel notices.
func (m *memoryTunnel) exit() {
	m.exits.Store(true)
	time.Sleep(exitInterval + shutdownEach)
	synctest.Wait()
}

func TestExitIsNoticed(t *testing.T) {
	inMemory(t, exiting, func(m *memoryTunnel) {
		m.exit()
		m.client.expect(m.upstream.closeFrame(1001, ""))
		m.client.send(m.client.closeFrame(1001, ""))
		m.upstream.expectUnmasked("\x88\x02\x03\xe9")
		m.upstream.expectEnd()
		m.client.expectEnd()
		m.expectReason(Shutdown)
	})
}

func TestSilentClientIsNotWaitedForAtExit(t *testing.T) {
	inMemory(t, exiting, func(m *memoryTunnel) {
		m.exit()
		m.client.expect(m.upstream.closeFrame(1001, ""))
		time.Sleep(shutdownAnswerTime)
		m.upstream.expectUnmasked("\x88\x02\x03\xe9")
		m.upstream.expectEnd()
		time.Sleep(lingerTime)
		m.expectReason(Shutdown)
	})
}

// Neither of these can be told anything.
func TestStuckPeersDoNotHoldUpTheExit(t *testing.T) {
	tests := map[string]func(m *memoryTunnel){
		"a client that reads nothing": func(m *memoryTunnel) {
			m.others.Go(func() {
				_, _ = m.upstream.Write([]byte(m.upstream.frame(testbed.Binary, strings.Repeat("x", 1<<16))))
			})
		},
		"an upstream that reads nothing": func(m *memoryTunnel) {
			m.others.Go(func() {
				_, _ = m.client.Write([]byte(m.client.frame(testbed.Binary, strings.Repeat("x", 1<<16))))
			})
		},
		"an upstream inside a frame": func(m *memoryTunnel) {
			m.upstream.send(m.upstream.frame(testbed.Text, "half")[:3])
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, exiting, func(m *memoryTunnel) {
				prepare(m)
				synctest.Wait()
				began := time.Now()
				m.exit()
				<-m.live.ShutDown()
				if took := time.Since(began); took > exiting.Shutdown {
					t.Errorf("took %v, want %v at most", took, exiting.Shutdown)
				}
				m.expectReason(Shutdown)
			})
		})
	}
}

// Tunnels abort themselves before that, unless the processor has no time for them.
func TestWhatIsLeftAtTheEndOfTheShutdownPeriodIsAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live, relays := NewRegistry(nil), make([]*abortedRelay, 3)
		for i := range relays {
			held := registered(live)
			relays[i] = &abortedRelay{ended: func() { live.remove(held) }}
			held.relay = relays[i]
			held.options = &Options{Shutdown: 10 * time.Second}
			live.add(held)
		}
		began := time.Now()
		<-live.ShutDown()
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("took %v, want the shutdown period of 10s", took)
		}
		for i, r := range relays {
			if got := r.aborted.Load(); got != 2 {
				t.Errorf("tunnel %d was aborted %d times, want twice", i, got)
			}
		}
	})
}

// abortedRelay ends only when it is aborted for the second time.
type abortedRelay struct {
	idleRelay

	aborted atomic.Int32
	ended   func()
}

func (r *abortedRelay) Abort() {
	if r.aborted.Add(1) == 2 {
		r.ended()
	}
}

func TestTunnelThatComesDuringTheExitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live := NewRegistry(nil)
		held := registered(live)
		held.options = &exiting
		live.add(held)
		over := live.ShutDown() // waits for that one
		m := &memoryTunnel{t: t, live: live, reports: make(chan Outcome, 2), began: time.Now()}
		m.open(exiting)
		m.client.expect(m.upstream.closeFrame(1001, ""))
		_ = m.client.Close()
		_ = m.upstream.Close()
		m.waitDone()
		live.remove(held)
		<-over
	})
}

func TestManyClientsAreToldOverAWhile(t *testing.T) {
	for n, spread := range map[int]time.Duration{10: 10 * time.Millisecond, 5000: 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			live, began := NewRegistry(nil), time.Now()
			var last atomic.Int64
			for range n {
				held := registered(live)
				held.options = &exiting
				held.relay = &toldRelay{told: func() {
					last.Store(int64(time.Since(began)))
					live.remove(held)
				}}
				live.add(held)
			}
			<-live.ShutDown()
			if got := time.Duration(last.Load()); got > spread || got < spread/2 {
				t.Errorf("the last of %d clients was told after %v, want shortly before %v", n, got, spread)
			}
		})
	}
}

// toldRelay reports when its tunnel wants something inserted.
type toldRelay struct {
	idleRelay

	told func()
	once atomic.Bool
}

func (r *toldRelay) Wake(relay.Direction) {
	if r.once.CompareAndSwap(false, true) {
		go r.told() // as it takes locks that the caller may hold
	}
}

// The exit is not over before what a handshake has become is.
func TestExitWaitsForHandshakes(t *testing.T) {
	inMemory(t, exiting, func(m *memoryTunnel) {
		m.live.Begin()
		over := m.live.ShutDown()
		time.Sleep(shutdownEach)
		m.client.expect(goingAway)
		_, _ = m.client.Close(), m.upstream.Close()
		time.Sleep(time.Second)
		select {
		case <-over:
			t.Error("the exit is over before the handshake")
		default:
		}
		m.live.Finish()
		<-over
	})
}

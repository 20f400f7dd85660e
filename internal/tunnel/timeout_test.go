package tunnel

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestIdleTunnelIsEnded(t *testing.T) {
	inMemory(t, Options{Idle: 10 * time.Second}, func(m *memoryTunnel) {
		time.Sleep(10*time.Second - 1)
		m.client.expectOpen()
		time.Sleep(2 * SweepInterval)
		m.client.expect(goingAway)
		m.client.send(m.client.closeFrame(1001, ""))
		_ = m.client.Close()
		_ = m.upstream.Close()
		m.expectReason(IdleTimeout)
		m.expectAge(10 * time.Second)
	})
}

func TestPingsKeepATunnelFromBeingIdle(t *testing.T) {
	tests := map[string]func(m *memoryTunnel) (from, to *memoryPeer){
		"of the client":   func(m *memoryTunnel) (from, to *memoryPeer) { return m.client, m.upstream },
		"of the upstream": func(m *memoryTunnel) (from, to *memoryPeer) { return m.upstream, m.client },
	}
	for name, peers := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{Idle: 10 * time.Second}, func(m *memoryTunnel) {
				from, to := peers(m)
				for range 20 {
					time.Sleep(8 * time.Second)
					ping := from.frame(testbed.Ping, "")
					from.send(ping)
					to.expect(ping)
				}
				m.expectReason(IdleTimeout)
				m.expectAge(20*8*time.Second + 10*time.Second + closeAnswerTime + lingerTime)
			})
		})
	}
}

func TestSingleBytesKeepATunnelFromBeingIdle(t *testing.T) {
	inMemory(t, Options{Idle: 10 * time.Second}, func(m *memoryTunnel) {
		whole := m.upstream.frame(testbed.Text, "slow but alive")
		for i := range len(whole) {
			time.Sleep(8 * time.Second)
			m.upstream.send(whole[i : i+1])
			m.client.expect(whole[i : i+1])
		}
		m.expectLive()
	})
}

func TestStalledReceiverIsCut(t *testing.T) {
	tests := map[string]func(m *memoryTunnel) (from, stalled *memoryPeer){
		"client":   func(m *memoryTunnel) (from, stalled *memoryPeer) { return m.upstream, m.client },
		"upstream": func(m *memoryTunnel) (from, stalled *memoryPeer) { return m.client, m.upstream },
	}
	for name, peers := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{Write: 20 * time.Second, Idle: 10 * time.Minute}, func(m *memoryTunnel) {
				from, stalled := peers(m)
				stalled.in.room = 100
				time.Sleep(5 * time.Second)
				from.send(from.frame(testbed.Binary, strings.Repeat("x", 1000)))
				// What the others say does not help.
				m.others.Go(stalled.talk)
				m.others.Go(from.listen)
				m.expectReason(WriteTimeout)
				m.expectAge(25*time.Second + closeAnswerTime + lingerTime)
			})
		})
	}
}

// Progress is seen when a whole buffer has been taken.
func TestSlowButSteadyReceiverIsNotCut(t *testing.T) {
	inMemory(t, Options{Write: 20 * time.Second}, func(m *memoryTunnel) {
		const perSecond = 4 << 10
		m.client.in.room = perSecond
		message := m.upstream.frame(testbed.Binary, strings.Repeat("x", 100*perSecond))
		m.others.Go(func() {
			for range 10 {
				if _, err := m.upstream.Write([]byte(message)); err != nil {
					t.Errorf("after %v: %v", time.Since(m.began), err)
				}
			}
		})
		buf := make([]byte, perSecond)
		for left := 10 * len(message); left > 0; time.Sleep(time.Second) {
			n, err := m.client.Read(buf)
			if err != nil {
				t.Fatalf("after %v: %v", time.Since(m.began), err)
			}
			left -= n
		}
		m.expectLive()
		m.expectAge(1000 * time.Second)
	})
}

func TestStallThatEndsInTimeIsForgotten(t *testing.T) {
	inMemory(t, Options{Write: 20 * time.Second}, func(m *memoryTunnel) {
		m.client.in.room = 100
		message := m.upstream.frame(testbed.Binary, strings.Repeat("x", 1000))
		buf := make([]byte, 100)
		for range 5 {
			m.upstream.send(message)
			time.Sleep(15 * time.Second)
			for left := len(message); left > 0; {
				n, err := m.client.Read(buf)
				if err != nil {
					t.Fatalf("after %v: %v", time.Since(m.began), err)
				}
				left -= n
			}
			synctest.Wait()
		}
		m.expectLive()
	})
}

func TestHalfClosedTunnelGetsItsFullTime(t *testing.T) {
	tests := map[string]func(m *memoryTunnel) (closer, other *memoryPeer){
		"by the client":   func(m *memoryTunnel) (closer, other *memoryPeer) { return m.client, m.upstream },
		"by the upstream": func(m *memoryTunnel) (closer, other *memoryPeer) { return m.upstream, m.client },
	}
	for name, peers := range tests {
		t.Run(name, func(t *testing.T) {
			policy := Options{HalfClose: 30 * time.Second, Idle: time.Hour}
			inMemory(t, policy, func(m *memoryTunnel) {
				closer, other := peers(m)
				time.Sleep(10 * time.Minute) // all idle
				_ = closer.CloseWrite()
				other.expectEnd()
				time.Sleep(29 * time.Second)
				m.expectOnlyHalfClosed()
				// Whatever still flows gives it more time.
				more := other.frame(testbed.Text, "more")
				other.send(more)
				closer.expect(more)
				time.Sleep(29 * time.Second)
				m.expectOnlyHalfClosed()
				m.expectReason(HalfCloseTimeout)
				m.expectAge(10*time.Minute + 29*time.Second + 30*time.Second + lingerTime)
			})
		})
	}
}

func TestOldTunnelIsEnded(t *testing.T) {
	inMemory(t, Options{MaxLifetime: 100 * time.Second}, func(m *memoryTunnel) {
		// However busy it is.
		m.others.Go(m.upstream.talk)
		m.others.Go(m.client.listen)
		m.expectReason(MaxLifetime)
		m.expectAge(100*time.Second + closeAnswerTime + lingerTime)
	})
}

func TestLifetimeIsShortenedAtRandom(t *testing.T) {
	for _, test := range []struct {
		jitter, random float64
		want           time.Duration
	}{
		{0, 0.999, 100 * time.Second},
		{0.1, 0, 100 * time.Second},
		{0.1, 0.5, 95 * time.Second},
		{1, 0.25, 75 * time.Second},
	} {
		m := New(About{}, &Options{MaxLifetime: 100 * time.Second, Jitter: test.jitter}, NewRegistry(nil), nil)
		m.setTimes(time.Now(), func() float64 { return test.random })
		if got := (*m.deadlines.Load())[0].At.Sub(m.opened).Round(time.Millisecond); got != test.want {
			t.Errorf("with jitter %v and random number %v, the lifetime is %v, want %v",
				test.jitter, test.random, got, test.want)
		}
	}
}

func TestZeroTimesMeanNoLimit(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		_ = m.client.CloseWrite()
		m.upstream.expectEnd()
		m.client.in.room = 10
		m.upstream.send(m.upstream.frame(testbed.Text, "never read"))
		time.Sleep(24 * time.Hour)
		m.expectOnlyHalfClosed()
	})
}

func TestPeersThatNeverCloseAfterTheClosingHandshake(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		m.step(clientSaysClose, upstreamSaysClose)
		m.expectReason(ClientClosed)
		m.expectAge(closeAnswerTime + lingerTime)
	})
}

package tunnel

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// goingAway is the Close frame that a client is sent when the proxy ends its
// tunnel.
var goingAway = string(testbed.NewClose(1001, "").Bytes(false))

// endPolitely ends the tunnel as its times do.
func (m *memoryTunnel) endPolitely() {
	m.end(MaxLifetime, frame.StatusGoingAway)
}

func TestPoliteEndIsAClosingHandshake(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		m.endPolitely()
		m.client.expect(goingAway)
		m.upstream.expectOpen()

		// What the client still says passes, up to its answer.
		last := m.client.frame(testbed.Text, "last")
		m.client.send(last)
		m.upstream.expect(last)
		// What the upstream still says does not.
		m.upstream.send(m.upstream.frame(testbed.Text, "unheard"))
		m.client.expectOpen()

		answer := m.client.closeFrame(1001, "as you wish")
		m.client.send(answer)
		m.upstream.expect(answer)
		m.upstream.expectEnd()
		m.client.expectEnd()

		m.upstream.send(m.upstream.closeFrame(1001, ""))
		m.client.expect("")
		_ = m.upstream.Close()
		_ = m.client.Close()
		m.expectReason(MaxLifetime)
		m.expectClose(Proxy, 1001)
		if took := time.Since(m.began); took != 0 {
			t.Errorf("an end that everybody agrees to took %v", took)
		}
		if want := [2]uint64{uint64(len(last) + len(answer)), 0}; m.passed != want {
			t.Errorf("%d bytes count as passed, want %d: not what is discarded or our own", m.passed, want)
		}
	})
}

func TestPoliteEndWaitsForTheEndOfTheFrame(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		whole := m.upstream.frame(testbed.Binary, strings.Repeat("x", 300))
		m.upstream.send(whole[:2]) // in the middle of the header
		m.client.expect(whole[:2])
		m.endPolitely()
		m.client.expectOpen()
		m.upstream.send(whole[2:100])
		m.client.expect(whole[2:100])
		m.upstream.send(whole[100:] + m.upstream.frame(testbed.Text, "unheard"))
		m.client.expect(whole[100:] + goingAway)
	})
}

func TestPoliteEndMayComeBetweenFragments(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		first := string(testbed.Frame{Opcode: testbed.Text, Payload: []byte("a")}.Bytes(false))
		m.upstream.send(first)
		m.client.expect(first)
		m.endPolitely()
		m.client.expect(goingAway)
		m.upstream.send(m.upstream.frame(testbed.Continuation, "b"))
		m.client.expectOpen()
	})
}

func TestPoliteEndGivesUpOnAClientThatDoesNotAnswer(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		m.endPolitely()
		m.client.expect(goingAway)
		time.Sleep(closeAnswerTime - time.Millisecond)
		m.upstream.expectOpen()
		m.client.expectOpen()
		time.Sleep(time.Millisecond)
		m.upstream.expectUnmasked(goingAway)
		m.upstream.expectEnd()
		m.client.expectEnd()
		m.expectReason(MaxLifetime)
		m.expectAge(closeAnswerTime + lingerTime)
	})
}

func TestPoliteEndPutsNoCloseIntoAFrameOfTheClient(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		whole := m.client.frame(testbed.Text, "stalled in the middle")
		m.client.send(whole[:10])
		m.upstream.expect(whole[:10])
		m.endPolitely()
		m.client.expect(goingAway)
		m.expectReason(MaxLifetime)
		m.upstream.expectEnd()
		m.expectAge(closeAnswerTime + lingerTime)
	})
}

func TestPoliteEndPutsNoCloseIntoAFrameOfTheUpstream(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		whole := m.upstream.frame(testbed.Text, "stalled in the middle")
		m.upstream.send(whole[:10])
		m.client.expect(whole[:10])
		m.endPolitely()
		time.Sleep(closeAnswerTime)
		m.client.expectEnd()
		m.upstream.expectUnmasked(goingAway)
		m.expectReason(MaxLifetime)
		m.expectClose(Proxy, 1001) // the upstream was told
		m.expectAge(closeAnswerTime + lingerTime)
	})
}

func TestPoliteEndDoesNotWaitForPeersThatDoNotRead(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		m.client.in.room, m.upstream.in.room = 100, 100
		toClient := m.upstream.frame(testbed.Binary, strings.Repeat("x", 1000))
		toUpstream := m.client.frame(testbed.Binary, strings.Repeat("x", 1000))
		m.upstream.send(toClient)
		m.client.send(toUpstream)
		m.endPolitely()
		m.expectReason(MaxLifetime)
		m.expectAge(closeAnswerTime + lingerTime)
	})
}

func TestPoliteEndComesOnlyOnce(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		m.endPolitely()
		m.end(IdleTimeout, 1000)
		m.client.expect(goingAway)
		time.Sleep(closeAnswerTime)
		m.end(IdleTimeout, 1000)
		m.expectReason(MaxLifetime)
		m.end(IdleTimeout, 1000)
	})
}

func TestPoliteEndLeavesOpaqueStreamsAlone(t *testing.T) {
	reserved := string([]byte{0x83, 2}) + "hi"
	tests := map[string]func(m *memoryTunnel) (violator, other *memoryPeer, raw string){
		"unmasked frame of the client": func(m *memoryTunnel) (violator, other *memoryPeer, raw string) {
			return m.client, m.upstream, m.upstream.frame(testbed.Text, "no mask")
		},
		"reserved opcode of the client": func(m *memoryTunnel) (violator, other *memoryPeer, raw string) {
			return m.client, m.upstream, reserved
		},
		"masked frame of the upstream": func(m *memoryTunnel) (violator, other *memoryPeer, raw string) {
			return m.upstream, m.client, m.client.frame(testbed.Text, "mask")
		},
		"reserved opcode of the upstream": func(m *memoryTunnel) (violator, other *memoryPeer, raw string) {
			return m.upstream, m.client, reserved
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{}, func(m *memoryTunnel) {
				violator, other, raw := test(m)
				violator.send(raw)
				other.expect(raw)
				// Bytes go on to flow, whatever they are.
				violator.send("anything" + raw)
				other.expect("anything" + raw)
				back := other.frame(testbed.Text, "answer")
				other.send(back)
				violator.expect(back)

				m.endPolitely()
				m.client.expectEnd()
				m.upstream.expectEnd()
				m.expectReason(MaxLifetime)
				m.expectAge(lingerTime)
				m.expectClose("", 0)
			})
		})
	}
}

// An upstream that breaks the protocol after its end was decided must not get
// the Close into what it sends.
func TestPoliteEndGivesUpOnAnUpstreamThatBecomesOpaque(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		whole := m.upstream.frame(testbed.Text, "whole")
		m.upstream.send(whole[:1])
		m.client.expect(whole[:1])
		m.endPolitely()
		m.upstream.send("\xFF\xFF garbage")
		if got := m.client.has(); strings.Contains(got, goingAway) {
			t.Errorf("the client got a Close inside of %q", got)
		}
		m.client.in.forget()
		m.expectReason(MaxLifetime)
	})
}

func TestPoliteEndOfAHalfClosedTunnel(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		inMemory(t, Options{}, func(m *memoryTunnel) {
			_ = m.client.CloseWrite()
			m.upstream.expectEnd()
			m.endPolitely()
			// It is told, but no answer can come.
			m.client.expect(goingAway)
			m.client.expectEnd()
			m.expectReason(MaxLifetime)
			m.expectAge(lingerTime)
		})
	})
	t.Run("by the upstream", func(t *testing.T) {
		inMemory(t, Options{}, func(m *memoryTunnel) {
			_ = m.upstream.CloseWrite()
			m.client.expectEnd()
			m.endPolitely()
			// The client cannot be told any more.
			m.upstream.expectUnmasked(goingAway)
			m.upstream.expectEnd()
			m.expectReason(MaxLifetime)
			m.expectAge(lingerTime)
		})
	})
}

func TestPoliteEndInTheMiddleOfAClosingHandshake(t *testing.T) {
	t.Run("begun by the client", func(t *testing.T) {
		inMemory(t, Options{}, func(m *memoryTunnel) {
			bye := m.client.closeFrame(1000, "bye")
			m.client.send(bye)
			m.upstream.expect(bye)
			m.endPolitely()
			// In place of the answer that does not come.
			m.client.expect(goingAway)
			m.client.expectEnd()
			m.upstream.expectEnd()
			m.expectReason(MaxLifetime)
			m.expectClose(Client, 1000)
			m.expectAge(lingerTime)
		})
	})
	t.Run("begun by the upstream", func(t *testing.T) {
		inMemory(t, Options{}, func(m *memoryTunnel) {
			bye := m.upstream.closeFrame(1000, "bye")
			m.upstream.send(bye)
			m.client.expect(bye)
			m.endPolitely()
			m.client.expectOpen() // nothing may follow a Close
			answer := m.client.closeFrame(1000, "")
			m.client.send(answer)
			m.upstream.expect(answer)
			m.client.expectEnd()
			m.upstream.expectEnd()
			m.expectReason(MaxLifetime)
			m.expectClose(Upstream, 1000)
		})
	})
	t.Run("begun by the upstream inside of the frame waited for", func(t *testing.T) {
		inMemory(t, Options{}, func(m *memoryTunnel) {
			bye := m.upstream.closeFrame(1000, "bye")
			m.upstream.send(bye[:3])
			m.client.expect(bye[:3])
			m.endPolitely()
			m.upstream.send(bye[3:])
			m.client.expect(bye[3:])
			m.client.send(m.client.closeFrame(1000, ""))
			m.expectReason(MaxLifetime)
			m.expectClose(Upstream, 1000)
		})
	})
	t.Run("begun by the client while the upstream is inside of a frame", func(t *testing.T) {
		inMemory(t, Options{}, func(m *memoryTunnel) {
			whole := m.upstream.frame(testbed.Text, "whole")
			m.upstream.send(whole[:3])
			m.client.expect(whole[:3])
			m.endPolitely()
			bye := m.client.closeFrame(1000, "bye")
			m.client.send(bye)
			m.upstream.expect(bye)
			m.expectReason(MaxLifetime)
			m.expectClose(Client, 1000)
		})
	})
}

// A Close for which there was no place for a while is not forgotten.
func TestPoliteEndWaitsForAClientThatReadsSlowly(t *testing.T) {
	for name, meanwhile := range map[string]func(m *memoryTunnel){
		"that closes meanwhile": func(m *memoryTunnel) { m.client.send(m.client.closeFrame(1000, "")) },
		"for too long":          func(*memoryTunnel) { time.Sleep(closeAnswerTime + lingerTime/2) },
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{}, func(m *memoryTunnel) {
				whole := m.upstream.frame(testbed.Binary, strings.Repeat("x", 5<<10)) // more than there is room for
				m.upstream.send(whole[:4<<10])
				synctest.Wait()
				m.upstream.send(whole[4<<10:])
				synctest.Wait()
				m.endPolitely()
				meanwhile(m)
				got := m.client.has()
				m.client.in.drop(len(got))
				got += m.client.has()
				m.client.in.forget()
				if got != whole+goingAway {
					t.Errorf("got %d bytes that end in %q, want the frame and a Close", len(got), got[max(0, len(got)-10):])
				}
				m.expectReason(MaxLifetime)
			})
		})
	}
}

// A peer that reads slowly gets all that belongs to the closing handshake.
func TestClosingHandshakeWaitsForASlowPeer(t *testing.T) {
	for name, swap := range map[string]bool{"upstream": false, "client": true} {
		for _, policy := range []Options{{}, {MaxMessage: 1 << 20}} {
			t.Run(fmt.Sprintf("%s, with a limit %t", name, policy.MaxMessage > 0), func(t *testing.T) {
				inMemory(t, policy, func(m *memoryTunnel) {
					fast, slow := m.client, m.upstream
					if swap {
						fast, slow = slow, fast
					}
					bye := slow.closeFrame(1001, "")
					slow.send(bye)
					fast.expect(bye)
					all := fast.frame(testbed.Binary, strings.Repeat("x", 7<<10)) + fast.closeFrame(1001, "")
					for part := range slices.Chunk([]byte(all), 4<<10) {
						fast.send(string(part))
						synctest.Wait()
					}
					got := ""
					for range 10 {
						time.Sleep(closeAnswerTime + lingerTime)
						part := slow.has()
						got += part[:min(len(part), 1<<10)]
						slow.in.drop(1 << 10)
					}
					if got != all {
						t.Errorf("got %d bytes, want %d", len(got), len(all))
					}
					m.expectReason(closed(peerOf(slow)))
				})
			})
		}
	}
}

func peerOf(p *memoryPeer) Peer {
	if p.masked {
		return Client
	}
	return Upstream
}

func TestPoliteEndWhilePeersGo(t *testing.T) {
	tests := map[string]func(m *memoryTunnel){
		"client closes":     func(m *memoryTunnel) { _ = m.client.Close() },
		"client resets":     func(m *memoryTunnel) { m.client.reset() },
		"upstream closes":   func(m *memoryTunnel) { _ = m.upstream.Close() },
		"upstream resets":   func(m *memoryTunnel) { m.upstream.reset() },
		"both close":        func(m *memoryTunnel) { _ = m.client.Close(); _ = m.upstream.Close() },
		"client half-close": func(m *memoryTunnel) { _ = m.client.CloseWrite() },
	}
	for name, gone := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{}, func(m *memoryTunnel) {
				m.endPolitely()
				m.client.expect(goingAway)
				gone(m)
				m.expectReason(MaxLifetime)
				m.expectClose(Proxy, 1001)
			})
		})
	}
}

package tunnel

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// rated is a policy with a rate of 10 messages per second.
func rated(burst int) Options {
	const every = 100 * time.Millisecond
	return Options{MessageEvery: every, MessageAhead: time.Duration(burst-1) * every}
}

// words are numbered messages of the peer, to be sent at once.
func (p *memoryPeer) words(n int) (raw []string) {
	for i := range n {
		raw = append(raw, p.frame(testbed.Text, fmt.Sprintf("word %d", i)))
	}
	return raw
}

func TestMessagesOfABurstPassAtOnceAndOthersInTurn(t *testing.T) {
	inMemory(t, rated(5), func(m *memoryTunnel) {
		for range 2 {
			words := m.client.words(20)
			m.client.send(strings.Join(words, ""))
			m.upstream.expect(strings.Join(words[:5], ""))
			for _, word := range words[5:] {
				time.Sleep(100*time.Millisecond - 1)
				m.upstream.expectOpen()
				time.Sleep(time.Nanosecond)
				m.upstream.expect(word)
			}
			time.Sleep(time.Second) // until the next burst
		}
		if got := m.scanners[0].Messages(); got != 40 {
			t.Errorf("%d messages are counted, want 40", got)
		}
	})
}

func TestOnlyMessagesOfTheClientCountForTheRate(t *testing.T) {
	inMemory(t, rated(1), func(m *memoryTunnel) {
		for name, raw := range map[string]string{
			"pings": strings.Repeat(m.client.frame(testbed.Ping, "ping"), 10),
			"pongs": strings.Repeat(m.client.frame(testbed.Pong, ""), 10),
			"fragments": m.client.fragment(testbed.Text, "a") +
				strings.Repeat(m.client.fragment(testbed.Continuation, "b"), 7) +
				m.client.frame(testbed.Ping, "") + m.client.frame(testbed.Continuation, ""),
		} {
			m.client.send(raw)
			if got := m.upstream.has(); got != raw {
				t.Errorf("%s: got %q, want %q", name, got, raw)
			}
			m.upstream.in.forget()
			time.Sleep(time.Second)
		}
		words := strings.Join(m.upstream.words(20), "")
		m.upstream.send(words)
		m.client.expect(words)
	})
}

// Frames that are no messages cost the upstream as much.
func TestFramesOfAnyKindAreBounded(t *testing.T) {
	kinds := map[string]func(p *memoryPeer) string{
		"pings": func(p *memoryPeer) string { return p.frame(testbed.Ping, "") },
		"pongs": func(p *memoryPeer) string { return p.frame(testbed.Pong, "") },
		"empty fragments": func(p *memoryPeer) string {
			return p.fragment(testbed.Continuation, "")
		},
	}
	const burst = 5
	for name, kind := range kinds {
		t.Run(name+", delayed", func(t *testing.T) {
			inMemory(t, rated(burst), func(m *memoryTunnel) {
				first, one := m.client.fragment(testbed.Text, ""), kind(m.client)
				m.client.send(first + strings.Repeat(one, 10*burst+20-1))
				m.upstream.expect(first + strings.Repeat(one, 10*burst-1))
				for range 20 {
					time.Sleep(10*time.Millisecond - 1)
					m.upstream.expectOpen()
					time.Sleep(time.Nanosecond)
					m.upstream.expect(one)
				}
			})
		})
		t.Run(name+", refused", func(t *testing.T) {
			policy := rated(burst)
			policy.RefuseFast = true
			inMemory(t, policy, func(m *memoryTunnel) {
				first, one := m.client.fragment(testbed.Text, ""), kind(m.client)
				m.client.send(first + strings.Repeat(one, 10*burst-1))
				m.upstream.expect(first + strings.Repeat(one, 10*burst-1))
				m.client.send(one)
				m.client.expect(string(testbed.NewClose(1008, "").Bytes(false)))
				_ = m.client.Close()
				_ = m.upstream.Close()
				m.expectReason(RateLimited)
				m.expectBlamed(Client)
			})
		})
	}
}

// A client that answers our pings must not lose its turns by that.
func TestAnswersToOurPingsDoNotCountForTheRate(t *testing.T) {
	policy := Options{MessageEvery: time.Hour, RefuseFast: true, Ping: 10 * time.Second}
	inMemory(t, policy, func(m *memoryTunnel) {
		m.pass(10 * time.Second)
		for range 30 {
			m.client.send(m.client.pong(m.client.expectPing()))
			m.upstream.send(m.upstream.pong(m.upstream.expectPing()))
			time.Sleep(11 * time.Second)
			synctest.Wait()
		}
		m.client.expectPing()
		m.upstream.expectPing()
		word := m.client.frame(testbed.Text, "word")
		m.client.send(word)
		m.upstream.expect(word)
	})
}

func TestMessageThatHasToWaitMayComeInBits(t *testing.T) {
	inMemory(t, rated(1), func(m *memoryTunnel) {
		words := m.client.words(3)
		raw := strings.Join(words, "")
		for i := range len(raw) {
			m.client.send(raw[i : i+1])
			_ = m.upstream.has()
		}
		m.upstream.expect(words[0])
		time.Sleep(100 * time.Millisecond)
		m.upstream.expect(words[1])
		time.Sleep(100 * time.Millisecond)
		m.upstream.expect(words[2])
	})
}

func TestClientThatSendsTooFastIsRefused(t *testing.T) {
	policy := rated(5)
	policy.RefuseFast = true
	inMemory(t, policy, func(m *memoryTunnel) {
		words := m.client.words(7)
		m.client.send(strings.Join(words[:5], ""))
		m.upstream.expect(strings.Join(words[:5], ""))
		time.Sleep(100 * time.Millisecond)
		m.client.send(strings.Join(words[5:], ""))
		m.upstream.expectPrefix(words[5])
		m.upstream.expectUnmasked(goingAway)
		m.client.expect(string(testbed.NewClose(1008, "").Bytes(false)))
		m.client.send(m.client.closeFrame(1008, ""))
		m.client.expectEnd()
		m.upstream.expectEnd()
		_ = m.client.Close()
		_ = m.upstream.Close()
		m.expectReason(RateLimited)
		m.expectBlamed(Client)
		m.expectClose(Proxy, 1008)
	})
}

// Neither is its direction stalled, nor is the tunnel idle, nor is the client
// lost whose pong is behind other messages.
func TestThrottledClientIsNotTakenForAnotherTrouble(t *testing.T) {
	policy := Options{
		MessageEvery: time.Second,
		Write:        2 * time.Second, Idle: 5 * time.Second, Ping: 2 * time.Second, PingTimeout: 4 * time.Second,
	}
	inMemory(t, policy, func(m *memoryTunnel) {
		words := m.client.words(60)
		m.client.send(strings.Join(words, ""))
		m.others.Go(m.client.listen)
		m.others.Go(func() {
			for word := m.upstream.frame(testbed.Text, "alive"); ; time.Sleep(time.Second) {
				if _, err := m.upstream.Write([]byte(word)); err != nil {
					return
				}
			}
		})
		time.Sleep(59*time.Second + time.Millisecond)
		m.expectLive()
		if got, want := m.upstream.has(), strings.Join(words, ""); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// A pause must not keep the write timeout from noticing an upstream that does
// not read.
func TestStalledUpstreamOfAThrottledClientIsCut(t *testing.T) {
	policy := rated(1)
	policy.Write = 5 * time.Second
	inMemory(t, policy, func(m *memoryTunnel) {
		m.upstream.in.room = 100
		m.client.send(strings.Join(m.client.words(60), ""))
		m.expectReason(WriteTimeout)
	})
}

func TestEndDoesNotWaitForAMessagesTurn(t *testing.T) {
	inMemory(t, Options{MessageEvery: time.Hour}, func(m *memoryTunnel) {
		words := m.client.words(2)
		m.client.send(strings.Join(words, ""))
		m.upstream.expect(words[0])
		m.endPolitely()
		m.client.expect(goingAway)
		time.Sleep(closeAnswerTime)
		m.upstream.expectUnmasked(goingAway)
		m.upstream.expectEnd()
		m.expectReason(MaxLifetime)
		m.expectAge(closeAnswerTime + lingerTime)
	})
}

// Whatever is left unread when the connection is closed makes the system reset it, and
// the client may lose our Close.
func TestThrottledClientIsReadWhileItsTunnelLingers(t *testing.T) {
	inMemory(t, Options{MessageEvery: time.Hour}, func(m *memoryTunnel) {
		words := m.client.words(1000) // more than there is room for
		m.others.Go(func() { m.client.send(strings.Join(words, "") + m.client.closeFrame(1001, "")) })
		m.upstream.expect(words[0])
		m.endPolitely()
		m.client.expect(goingAway)
		time.Sleep(closeAnswerTime)
		m.upstream.expectUnmasked(goingAway)
		m.upstream.expectEnd()
		m.client.expectEnd()
		if left := len(m.client.out.held()); left > 0 {
			t.Errorf("%d bytes of the client have not been read", left)
		}
		_ = m.client.CloseWrite()
		_ = m.upstream.CloseWrite()
		m.expectReason(MaxLifetime)
		if took := time.Since(m.began); took > closeAnswerTime {
			t.Errorf("the tunnel ended after %v though its peers had closed at %v", took, closeAnswerTime)
		}
	})
}

func TestPingOfOursIsPutInWhileAClientIsThrottled(t *testing.T) {
	inMemory(t, Options{MessageEvery: time.Hour, Ping: 10 * time.Second}, func(m *memoryTunnel) {
		words := m.client.words(2)
		m.client.send(strings.Join(words, ""))
		m.upstream.expect(words[0])
		m.pass(10 * time.Second)
		m.upstream.expectPing()
	})
}

func TestTurnsAreTakenAtTheRate(t *testing.T) {
	const maxRate = 1_000_000
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			rate, burst int
		}{{1, 1}, {1, 10}, {7, 1}, {100, 500}, {maxRate, maxRate}, {maxRate, 1}} {
			every := time.Second / time.Duration(test.rate)
			policy := Options{MessageEvery: every, MessageAhead: time.Duration(test.burst-1) * every}
			one := New(About{}, &policy, nil, nil)
			one.opened = time.Now()
			taken := 0
			for began := time.Now(); time.Since(began) < 10*time.Second && taken < 2*maxRate; {
				if wait := one.takeTurn(&one.inspector.directions[0], true); wait > 0 {
					time.Sleep(wait)
					continue
				}
				taken++
			}
			spent := time.Since(one.opened).Seconds()
			want := float64(test.burst) + spent*float64(test.rate)
			if got := float64(taken); got < want-2-want/100 || got > want+2+want/100 {
				t.Errorf("%d messages in %v s at a rate of %d with a burst of %d, want %v",
					taken, spent, test.rate, test.burst, want)
			}
		}
	})
}

// Nothing counts what comes behind a Close frame, and nobody has to look at it (RFC 6455
// section 5.5.1).
func TestNothingOfARatedClientPassesBehindItsClose(t *testing.T) {
	inMemory(t, rated(1), func(m *memoryTunnel) {
		closeFrame, more := m.client.closeFrame(1000, ""), strings.Repeat(m.client.frame(testbed.Ping, ""), 100)
		m.client.send(closeFrame[:3])
		m.client.send(closeFrame[3:] + more)
		m.client.send(more)
		m.upstream.expect(closeFrame)
		m.upstream.send(m.upstream.closeFrame(1000, ""))
		m.client.expect(m.upstream.closeFrame(1000, ""))
		_ = m.client.Close()
		_ = m.upstream.Close()
		m.expectReason(closed(Client))
	})
}

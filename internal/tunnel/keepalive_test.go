package tunnel

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// pinging is a policy with pings and nothing else.
var pinging = Options{Ping: 10 * time.Second, PingTimeout: 20 * time.Second}

// pingIn returns the payload of the one ping in raw, which is for p, and what
// is before and behind it.
func (p *memoryPeer) pingIn(raw string) (before, payload, behind string) {
	p.t.Helper()
	head := "\x89\x0c"
	if !p.masked {
		head = "\x89\x8c"
	}
	before, rest, found := strings.Cut(raw, head)
	if !found || len(rest) < pingSize || !p.masked && len(rest) < 4+pingSize {
		p.t.Fatalf("got %q, want a ping of ours", raw)
	}
	if p.masked {
		return before, rest[:pingSize], rest[pingSize:]
	}
	plain := []byte(rest[4 : 4+pingSize])
	for i := range plain {
		plain[i] ^= rest[i%4]
	}
	return before, string(plain), rest[4+pingSize:]
}

// expectPing expects a ping of ours and nothing else, and returns its payload.
func (p *memoryPeer) expectPing() string {
	p.t.Helper()
	before, payload, behind := p.pingIn(p.has())
	if before+behind != "" {
		p.t.Fatalf("got %q and %q around the ping", before, behind)
	}
	p.in.forget()
	return payload
}

// pong is a pong as this peer sends it.
func (p *memoryPeer) pong(payload string) string { return p.frame(testbed.Pong, payload) }

// pass lets time pass until the tunnel has this age and the sweep was there.
func (m *memoryTunnel) pass(age time.Duration) {
	time.Sleep(age + SweepInterval/2 - time.Since(m.began))
	synctest.Wait()
}

func TestSilentPeersArePinged(t *testing.T) {
	inMemory(t, pinging, func(m *memoryTunnel) {
		m.pass(9 * time.Second)
		m.client.expectOpen()
		m.upstream.expectOpen()
		seen := make(map[string]bool)
		for range 5 {
			time.Sleep(time.Second)
			synctest.Wait()
			pings := [2]string{m.client.expectPing(), m.upstream.expectPing()}
			for i, p := range []*memoryPeer{m.client, m.upstream} {
				if pings[i][:nonceSize] != string(m.inspector.nonce[:]) || seen[pings[i]] {
					t.Errorf("the ping has %q, want the nonce %q and another number", pings[i], m.inspector.nonce)
				}
				seen[pings[i]] = true
				p.send(p.pong(pings[i]))
			}
			m.client.expectOpen()
			m.upstream.expectOpen()
			time.Sleep(10 * time.Second)
			m.client.expectOpen()
			m.upstream.expectOpen()
		}
		m.expectLive()
		if m.passed != [2]uint64{} {
			t.Errorf("%d bytes count as passed, want none", m.passed)
		}
	})
}

func TestNonceIsTheTunnelsOwn(t *testing.T) {
	one := New(About{ID: "1"}, &pinging, nil, nil)
	two := New(About{ID: "2"}, &pinging, nil, nil)
	if one.inspector.nonce == two.inspector.nonce || one.inspector.nonce == [nonceSize]byte{} {
		t.Errorf("two tunnels have the nonces %x and %x", one.inspector.nonce, two.inspector.nonce)
	}
}

func TestOnlyTheSilentPeerIsPinged(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		word := from.frame(testbed.Text, "here I am")
		for range 5 {
			time.Sleep(9 * time.Second)
			from.send(word)
			_ = to.has()
			if strings.HasSuffix(to.in.held(), word) && len(to.in.held()) > len(word) {
				before, payload, _ := to.pingIn(to.in.held())
				if before != "" {
					t.Errorf("%q is before the ping", before)
				}
				to.send(to.pong(payload))
			}
			to.in.forget()
			from.expectOpen()
		}
		m.expectLive()
	})
}

func TestPongsToOurPingsAreSwallowedHoweverTheyCome(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		m.pass(10 * time.Second)
		first := from.expectPing()
		to.in.forget()
		word := from.frame(testbed.Text, "word")
		from.send(word)
		to.expect(word)
		// Byte by byte, and between other frames.
		raw := word + from.pong(first) + word + from.pong(first)
		for i := range len(raw) {
			from.send(raw[i : i+1])
			_ = to.has()
		}
		to.expect(word + word)
		from.send(raw)
		to.expect(word + word)
		// Between fragments.
		fragments := [2]string{from.fragment(testbed.Text, "a"), from.frame(testbed.Continuation, "b")}
		from.send(fragments[0] + from.pong(first) + fragments[1])
		to.expect(fragments[0] + fragments[1])
		// Late, or never sent by us: the nonce tells.
		m.pass(21 * time.Second)
		second := from.expectPing()
		to.in.forget()
		from.send(from.pong(second) + from.pong(first) + from.pong(first[:nonceSize]+"\xff\xff\xff\xff"))
		to.expectOpen()
		from.expectOpen()
	})
}

func TestPongsToOurPingsAreSwallowedWhileTheTunnelEnds(t *testing.T) {
	inMemory(t, pinging, func(m *memoryTunnel) {
		m.pass(10 * time.Second)
		payload := m.client.expectPing()
		m.upstream.in.forget()
		pong := m.client.pong(payload)
		m.client.send(pong[:3])
		m.endPolitely()
		m.client.expect(goingAway)
		m.client.send(pong[3:])
		last := m.client.frame(testbed.Text, "last") + m.client.closeFrame(1001, "")
		m.client.send(last)
		m.upstream.expect(last)
		m.upstream.expectEnd()
	})
}

func TestPongsThatAreNotOursPass(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		before := from.pong(string(m.inspector.nonce[:]) + "none") // nobody was pinged
		from.send(before)
		to.expect(before)
		m.pass(11 * time.Second)
		payload := from.expectPing()
		to.in.forget()
		for _, raw := range []string{
			from.pong(""),
			from.pong("twelve bytes"),
			from.pong(payload[:11]),
			from.pong(payload + "x"),
			from.pong(payload[:7] + string([]byte{payload[7] ^ 1}) + payload[8:]),
			from.frame(testbed.Ping, payload),
			from.frame(testbed.Text, payload),
			string(testbed.Frame{Fin: true, RSV: 4, Opcode: testbed.Pong, Payload: []byte(payload)}.Bytes(from.masked)),
		} {
			from.send(raw)
			to.expect(raw)
			for i := range len(raw) {
				from.send(raw[i : i+1])
				_ = to.has()
			}
			to.expect(raw)
		}
	})
}

// What can be seen not to be ours is not withheld any longer.
func TestPongIsWithheldOnlyWhileItMayBeOurs(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		m.pass(10 * time.Second)
		payload := from.expectPing()
		to.in.forget()
		raw := from.pong(payload[:3] + string([]byte{payload[3] ^ 1}) + payload[4:])
		header := len(raw) - pingSize
		from.send(raw[:header+3])
		to.expectOpen()
		from.send(raw[header+3 : header+4])
		to.expect(raw[:header+4])
		from.send(raw[header+4 : header+5])
		to.expect(raw[header+4 : header+5])
	})
}

func TestPingsWaitForTheEndOfTheFrame(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		whole := from.frame(testbed.Text, "a whole message")
		from.send(whole[:7])
		to.expect(whole[:7])
		m.pass(10 * time.Second)
		to.expectOpen()
		from.send(whole[7:9])
		to.expect(whole[7:9])
		from.send(whole[9:] + whole + whole)
		before, payload, behind := to.pingIn(to.has())
		if before != whole[9:] || behind != whole+whole {
			t.Errorf("the ping is between %q and %q", before, behind)
		}
		to.in.forget()
		to.send(to.pong(payload))
		_ = from.has()
	})
}

func TestPingMayComeBetweenFragments(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		first := from.fragment(testbed.Text, "a")
		from.send(first)
		to.expect(first)
		m.pass(10 * time.Second)
		to.expectPing()
	})
}

// A header that is withheld leaves the destination at a boundary.
func TestPingMayComeBeforeAWithheldHeader(t *testing.T) {
	eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
		whole := from.frame(testbed.Text, "whole")
		from.send(whole[:1])
		m.pass(10 * time.Second)
		to.expectPing()
		from.send(whole[1:])
		to.expect(whole)
	})
}

func TestPingsAndTheirPongsAreNoActivity(t *testing.T) {
	policy := pinging
	policy.Idle = 45 * time.Second
	inMemory(t, policy, func(m *memoryTunnel) {
		m.others.Go(m.client.answer)
		m.others.Go(m.upstream.answer)
		m.expectReason(IdleTimeout)
		m.expectAge(45*time.Second + lingerTime)
	})
}

func TestTrafficOfAGuardedTunnelIsActivity(t *testing.T) {
	policy := Options{Idle: 10 * time.Second, Ping: time.Hour, MaxMessage: 1000}
	eachPeer(t, policy, func(m *memoryTunnel, from, _ *memoryPeer) {
		raw := from.frame(testbed.Binary, strings.Repeat("x", 10)) + from.frame(testbed.Pong, "twelve bytes")
		for i := range len(raw) {
			time.Sleep(8 * time.Second)
			from.send(raw[i : i+1])
		}
		m.expectLive()
	})
}

func TestPeerThatOwesThePongIsNotPinged(t *testing.T) {
	eachPeer(t, Options{Ping: 10 * time.Second}, func(m *memoryTunnel, from, to *memoryPeer) {
		ping := from.frame(testbed.Ping, "application's")
		from.send(ping)
		to.expect(ping)
		for i := range 5 {
			m.pass(time.Duration(i+1) * 11 * time.Second)
			to.expectOpen()
			from.in.forget()
			word := to.frame(testbed.Text, "no answer")
			to.send(word)
			from.expect(word)
		}
		pong := to.pong("application's")
		to.send(pong)
		from.expect(pong)
		m.pass(67 * time.Second)
		to.expectPing()
	})
}

func TestNobodyIsPinged(t *testing.T) {
	tests := map[string]func(m *memoryTunnel, from, to *memoryPeer){
		"after a Close": func(_ *memoryTunnel, from, to *memoryPeer) {
			bye := from.closeFrame(1000, "")
			from.send(bye)
			to.expect(bye)
		},
		"in an opaque tunnel": func(_ *memoryTunnel, from, to *memoryPeer) {
			from.send("\x83\x80 whatever")
			to.expect("\x83\x80 whatever")
		},
		"in a half-closed tunnel": func(_ *memoryTunnel, from, to *memoryPeer) {
			_ = from.CloseWrite()
			to.expectEnd()
		},
	}
	for name, happens := range tests {
		t.Run(name, func(t *testing.T) {
			eachPeer(t, pinging, func(m *memoryTunnel, from, to *memoryPeer) {
				happens(m, from, to)
				m.pass(100 * time.Second)
				if got := m.client.in.held() + m.upstream.in.held(); got != "" {
					t.Errorf("something has come: %q", got)
				}
				m.expectLive()
			})
		})
	}
	t.Run("while the tunnel ends", func(t *testing.T) {
		policy := pinging
		policy.Ping = time.Second
		inMemory(t, policy, func(m *memoryTunnel) {
			word := m.upstream.frame(testbed.Text, "word")
			m.client.send(m.client.frame(testbed.Text, "word"))
			m.upstream.send(word)
			_ = m.upstream.has()
			m.upstream.in.forget()
			m.client.in.forget()
			m.endPolitely()
			m.client.expect(goingAway)
			time.Sleep(closeAnswerTime - 1)
			m.client.expectOpen()
			m.upstream.expectOpen()
		})
	})
}

package tunnel

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// tooBigForUs is the Close frame that tells a client that its message was too big.
var tooBigForUs = string(testbed.NewClose(1009, "").Bytes(false))

// fragment is a frame that is not the last of its message.
func (p *memoryPeer) fragment(opcode byte, payload string) string {
	return string(testbed.Frame{Opcode: opcode, Payload: []byte(payload)}.Bytes(p.masked))
}

// eachPeer runs a test with the client as sender, and with the upstream.
func eachPeer(t *testing.T, policy Options, test func(m *memoryTunnel, from, to *memoryPeer)) {
	t.Helper()
	t.Run("client", func(t *testing.T) {
		inMemory(t, policy, func(m *memoryTunnel) { test(m, m.client, m.upstream) })
	})
	t.Run("upstream", func(t *testing.T) {
		inMemory(t, policy, func(m *memoryTunnel) { test(m, m.upstream, m.client) })
	})
}

func TestMessagesUpToTheLimitPass(t *testing.T) {
	eachPeer(t, Options{MaxMessage: 300}, func(m *memoryTunnel, from, to *memoryPeer) {
		for _, raw := range []string{
			from.frame(testbed.Binary, strings.Repeat("x", 300)),
			from.frame(testbed.Text, ""),
			from.frame(testbed.Ping, strings.Repeat("p", 125)),
			// Each message counts for itself, its fragments together.
			from.fragment(testbed.Text, strings.Repeat("a", 100)) +
				from.frame(testbed.Ping, strings.Repeat("p", 125)) +
				from.fragment(testbed.Continuation, strings.Repeat("b", 200)) +
				from.frame(testbed.Continuation, ""),
			from.frame(testbed.Binary, strings.Repeat("y", 300)),
		} {
			from.send(raw)
			to.expect(raw)
			for i := range len(raw) {
				from.send(raw[i : i+1])
				_ = to.has()
			}
			to.expect(raw)
		}
		m.expectLive()
	})
}

func TestHeaderOfALimitedMessageIsPassedOnWhole(t *testing.T) {
	eachPeer(t, Options{MaxMessage: 300}, func(m *memoryTunnel, from, to *memoryPeer) {
		raw := from.frame(testbed.Binary, strings.Repeat("x", 300))
		header := len(raw) - 300
		from.send(raw[:header-1])
		to.expectOpen()
		from.send(raw[header-1 : header])
		to.expect(raw[:header])
		from.send(raw[header:])
		to.expect(raw[header:])
	})
}

// oversized are messages above a limit of 300 bytes, and how much of each passes.
func oversized(p *memoryPeer) map[string]struct{ passes, refused string } {
	beyond := strings.Repeat("x", 301)
	return map[string]struct{ passes, refused string }{
		"one frame":       {"", p.frame(testbed.Text, beyond)},
		"a huge frame":    {"", p.frame(testbed.Binary, strings.Repeat("x", 70_000))},
		"after another":   {p.frame(testbed.Text, "hello"), p.frame(testbed.Text, beyond)},
		"first fragment":  {"", p.fragment(testbed.Text, beyond)},
		"second fragment": {p.fragment(testbed.Text, "a"), p.fragment(testbed.Continuation, beyond[1:])},
		"last fragment": {
			p.fragment(testbed.Text, "a") + p.frame(testbed.Ping, "") + p.fragment(testbed.Continuation, "b"),
			p.frame(testbed.Continuation, beyond[2:]),
		},
	}
}

func TestClientWithTooBigAMessageIsRefused(t *testing.T) {
	for name := range oversized(&memoryPeer{}) {
		for _, step := range []int{1, 5, 1 << 20} {
			t.Run(fmt.Sprintf("%s/step=%d", name, step), func(t *testing.T) {
				inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
					message := oversized(m.client)[name]
					raw := message.passes + message.refused + m.client.frame(testbed.Ping, "more")
					for ; len(raw) > step; raw = raw[step:] {
						m.client.send(raw[:step])
						_ = m.client.has() // wait
					}
					m.client.send(raw)
					m.client.expect(tooBigForUs)
					// The upstream does not have to wait for the client's answer.
					m.upstream.expectPrefix(message.passes)
					m.upstream.expectUnmasked(goingAway)
					m.client.send(m.client.closeFrame(1009, ""))
					m.upstream.expectEnd()
					m.client.expectEnd()
					_ = m.upstream.Close()
					_ = m.client.Close()
					m.expectReason(MessageTooBig)
					m.expectBlamed(Client)
					m.expectClose(Proxy, 1009)
					if took := time.Since(m.began); took != 0 {
						t.Errorf("the end took %v", took)
					}
					if got, want := m.passed[0], uint64(len(message.passes)); got != want {
						t.Errorf("%d bytes count as passed, want %d", got, want)
					}
				})
			})
		}
	}
}

func TestUpstreamWithTooBigAMessageIsRefused(t *testing.T) {
	for name := range oversized(&memoryPeer{}) {
		for _, step := range []int{1, 5, 1 << 20} {
			t.Run(fmt.Sprintf("%s/step=%d", name, step), func(t *testing.T) {
				inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
					message := oversized(m.upstream)[name]
					raw := message.passes + message.refused + m.upstream.frame(testbed.Ping, "more")
					for ; len(raw) > step; raw = raw[step:] {
						m.upstream.send(raw[:step])
						_ = m.client.has() // wait
					}
					m.upstream.send(raw)
					m.client.expect(message.passes + goingAway)
					// What the client says until its answer passes.
					last := m.client.frame(testbed.Text, "last")
					m.client.send(last)
					m.upstream.expect(last)
					m.client.send(m.client.closeFrame(1001, ""))
					m.upstream.expectUnmasked(tooBigForUs)
					m.upstream.expectEnd()
					m.client.expectEnd()
					_ = m.upstream.Close()
					_ = m.client.Close()
					m.expectReason(MessageTooBig)
					m.expectBlamed(Upstream)
					if took := time.Since(m.began); took != 0 {
						t.Errorf("the end took %v", took)
					}
				})
			})
		}
	}
}

func TestRefusedPeersThatDoNotAnswer(t *testing.T) {
	inBeyond := strings.Repeat("x", 301)
	t.Run("client", func(t *testing.T) {
		inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
			m.client.send(m.client.frame(testbed.Text, inBeyond))
			m.client.expect(tooBigForUs)
			m.upstream.expectUnmasked(goingAway)
			m.others.Go(m.client.talk)
			m.others.Go(m.client.listen)
			m.upstream.expectOpen()
			m.expectReason(MessageTooBig)
			m.expectAge(closeAnswerTime + lingerTime)
			m.upstream.expectEnd()
		})
	})
	t.Run("client of an upstream inside of a frame", func(t *testing.T) {
		inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
			whole := m.upstream.frame(testbed.Text, "stalled in the middle")
			m.upstream.send(whole[:10])
			m.client.expect(whole[:10])
			m.client.send(m.client.frame(testbed.Text, inBeyond))
			m.client.expectOpen()
			m.upstream.expectOpen() // it may have to end its frame first
			time.Sleep(closeAnswerTime)
			m.upstream.expectUnmasked(goingAway)
			m.upstream.expectEnd()
			m.expectReason(MessageTooBig)
			m.expectAge(closeAnswerTime + lingerTime)
		})
	})
	t.Run("upstream", func(t *testing.T) {
		inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
			m.upstream.send(m.upstream.frame(testbed.Text, inBeyond))
			m.client.expect(goingAway)
			time.Sleep(closeAnswerTime)
			m.upstream.expectUnmasked(tooBigForUs)
			m.upstream.expectEnd()
			m.client.expectEnd()
			m.expectReason(MessageTooBig)
			m.expectAge(closeAnswerTime + lingerTime)
		})
	})
}

// A client's Close that was withheld in part is replaced all the same.
func TestAnswerToARefusalOfTheUpstreamMayComeInBits(t *testing.T) {
	inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
		m.upstream.send(m.upstream.frame(testbed.Text, strings.Repeat("x", 301)))
		m.client.expect(goingAway)
		answer := m.client.closeFrame(1001, "")
		m.client.send(answer[:1])
		m.upstream.expectOpen()
		m.client.send(answer[1:])
		m.upstream.expectUnmasked(tooBigForUs)
		m.upstream.expectEnd()
	})
}

func TestLimitHoldsWhileTheTunnelEnds(t *testing.T) {
	inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
		m.endPolitely()
		m.client.expect(goingAway)
		last := m.client.frame(testbed.Text, "last")
		m.client.send(last[:1])
		m.client.send(last[1:])
		m.upstream.expect(last)
		m.client.send(m.client.frame(testbed.Text, strings.Repeat("x", 301)))
		m.upstream.expectUnmasked(goingAway)
		m.client.send(m.client.closeFrame(1001, ""))
		m.upstream.expectEnd()
		m.expectReason(MaxLifetime)
		m.expectBlamed(Proxy)
	})
}

func TestGuardedTunnelEndsAsOthersDo(t *testing.T) {
	inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
		m.endPolitely()
		m.client.expect(goingAway)
		answer := m.client.closeFrame(1001, "as you wish")
		for i := range len(answer) {
			m.client.send(answer[i : i+1])
			_ = m.upstream.has()
		}
		m.upstream.expect(answer)
		m.upstream.expectEnd()
		m.client.expectEnd()
		_ = m.upstream.Close()
		_ = m.client.Close()
		m.expectReason(MaxLifetime)
	})
	inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
		// An empty Close whose header comes in two parts.
		bye := m.client.closeFrame(0, "")
		m.client.send(bye[:3])
		m.client.send(bye[3:])
		m.upstream.expect(bye)
		m.upstream.send(m.upstream.closeFrame(0, ""))
		m.client.expect(m.upstream.closeFrame(0, ""))
		_ = m.upstream.Close()
		_ = m.client.Close()
		m.expectReason(ClientClosed)
		m.expectClose(Client, 1005)
	})
}

// Of a peer that breaks the protocol nobody knows how large its messages are.
// Without a limit its bytes go on to flow.
func TestLimitCannotBeEvadedByBreakingTheProtocol(t *testing.T) {
	reserved := string([]byte{0x83, 0x80, 0, 0, 0, 0})
	notShortest := "\x82\xFE\x00\x01abcdx" // many servers take it
	for name, raw := range map[string]string{"reserved": reserved, "length": notShortest} {
		t.Run("client/"+name, func(t *testing.T) {
			inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
				m.client.send(raw[:1])
				m.client.send(raw[1:] + "anything")
				m.client.expect(string(testbed.NewClose(1002, "").Bytes(false)))
				m.upstream.expectUnmasked(goingAway)
				_ = m.client.Close()
				_ = m.upstream.Close()
				m.expectReason(ClientError)
				m.expectBlamed(Client)
			})
		})
	}
	t.Run("upstream", func(t *testing.T) {
		inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
			m.upstream.send("\x83\x00")
			m.client.expect(goingAway)
			m.client.send(m.client.closeFrame(1001, ""))
			m.upstream.expectUnmasked(string(testbed.NewClose(1002, "").Bytes(false)))
			_ = m.client.Close()
			_ = m.upstream.Close()
			m.expectReason(UpstreamError)
			m.expectBlamed(Upstream)
		})
	})
}

// expectPrefix takes the beginning of what has come.
func (p *memoryPeer) expectPrefix(want string) {
	p.t.Helper()
	got := p.has()
	if !strings.HasPrefix(got, want) {
		p.t.Fatalf("got %q, want it to begin with %q", got, want)
	}
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.in.data = p.in.data[len(want):]
}

// expectBlamed compares whose doing the end was.
func (m *memoryTunnel) expectBlamed(want Peer) {
	m.t.Helper()
	if got := m.closedBy(); got != want {
		m.t.Errorf("the end is the doing of the %s, want %s", got, want)
	}
}

// What is inside of an admitted frame need not be seen, and counts as traffic.
func TestGuardedPayloadIsSkipped(t *testing.T) {
	const d = relay.ClientToUpstream
	one := New(About{}, &Options{MaxMessage: 1 << 20}, nil, nil)
	raw := testbed.NewFrame(testbed.Binary, strings.Repeat("x", 1<<20)).Bytes(true)
	v := one.Inspect(d, raw[:100])
	if want := uint64(len(raw) - 100); v.Pass != 100 || v.Ahead != want {
		t.Fatalf("got %+v, want all to pass and %d bytes ahead", v, want)
	}
	one.inspector.directions[d].heard.Store(false)
	one.Skip(d, len(raw)-100)
	if !one.inspector.directions[d].heard.Load() || !one.scanners[d].AtBoundary() {
		t.Error("the bytes that were skipped went unnoticed")
	}
	if v := one.Inspect(d, raw[:20]); v.Ahead == 0 {
		t.Errorf("got %+v for the next frame", v)
	}
}

// Who has answered our Close is not kept waiting for an upstream that does not answer
// its own: the client's stream ends at once, in no time that passes here.
func TestClientThatHasAnsweredDoesNotWaitForTheUpstream(t *testing.T) {
	policy := Options{MaxMessage: 300, MessageEvery: time.Hour, RefuseFast: true}
	for name, test := range map[string]struct {
		code uint16
		raw  func(p *memoryPeer) string
	}{
		"too big":         {1009, func(p *memoryPeer) string { return p.frame(testbed.Text, strings.Repeat("x", 301)) }},
		"too fast":        {1008, func(p *memoryPeer) string { return strings.Join(p.words(2), "") }},
		"reserved":        {1002, func(*memoryPeer) string { return "\x83\x80abcd" }},
		"reserved, long":  {1002, func(*memoryPeer) string { return "\x83\xfe\x01\x00abcd" + strings.Repeat("x", 256) }},
		"not masked":      {1002, func(*memoryPeer) string { return "\x81\x02hi" }},
		"not finished":    {1002, func(*memoryPeer) string { return "\x09\x80abcd" }},
		"of nothing":      {1002, func(*memoryPeer) string { return "\x80\x80abcd" }},
		"not shortest":    {1002, func(*memoryPeer) string { return "\x82\xFE\x00\x01abcdx" }},
		"a long ping":     {1002, func(*memoryPeer) string { return "\x89\xfe\x00\x80abcd" + strings.Repeat("x", 128) }},
		"a Close of one":  {1002, func(*memoryPeer) string { return "\x88\x81abcdx" }},
		"a broken answer": {1002, func(*memoryPeer) string { return "\x83\x80abcd\x84\x00" }},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, policy, func(m *memoryTunnel) {
				m.client.send(test.raw(m.client))
				m.client.expect(string(testbed.NewClose(test.code, "").Bytes(false)))
				m.client.send(m.client.closeFrame(test.code, ""))
				m.client.expectEnd()
				_ = m.client.Close()
				_ = m.upstream.Close()
				m.expectBlamed(Client)
			})
		})
	}
}

// A length that is no number leaves nothing to follow.
func TestClientWhoseAnswerCannotBeFoundWaitsItsTime(t *testing.T) {
	inMemory(t, Options{MaxMessage: 300}, func(m *memoryTunnel) {
		m.client.send("\x82\xFF\xff\xff\xff\xff\xff\xff\xff\xffabcd")
		m.client.expect(string(testbed.NewClose(1002, "").Bytes(false)))
		m.client.send(m.client.closeFrame(1002, ""))
		m.client.expectOpen()
		time.Sleep(closeAnswerTime)
		m.client.expectEnd()
		_ = m.client.Close()
		_ = m.upstream.Close()
		m.expectBlamed(Client)
	})
}

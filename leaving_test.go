package websocketproxy

import (
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// expectLeft waits for the end, which has to come within a second of now.
func (m *memoryTunnel) expectLeft(want reason) {
	m.t.Helper()
	began := time.Now()
	m.expectReason(want)
	if took := time.Since(began); took > time.Second {
		m.t.Errorf("the tunnel has ended after %v, want a second at most", took)
	}
}

func TestClientThatHasGoneTakesItsTunnelWithIt(t *testing.T) {
	tooMuch := strings.Repeat("x", 1<<16)
	tests := map[string]struct {
		prepare func(m *memoryTunnel)
		reason  reason
		regular bool // the upstream knows of an end that is regular
	}{
		"the upstream reads nothing": {
			func(m *memoryTunnel) {
				m.others.Go(func() { _, _ = m.client.Write([]byte(m.client.frame(testbed.Binary, tooMuch))) })
			}, clientReset, false,
		},
		"the upstream reads nothing, and the client takes nothing": {
			func(m *memoryTunnel) {
				m.client.stopReading()
				m.others.Go(func() { _, _ = m.client.Write([]byte(m.client.frame(testbed.Binary, tooMuch))) })
				m.upstream.send(m.upstream.frame(testbed.Text, "news"))
			}, clientReset, false,
		},
		"the upstream talks without end": {
			func(m *memoryTunnel) {
				m.others.Go(m.upstream.talk)
				m.others.Go(m.client.listen)
			}, clientReset, false,
		},
		"both are silent": {func(*memoryTunnel) {}, clientReset, false},
		"the client has ended its stream": {
			func(m *memoryTunnel) { _ = m.client.CloseWrite() }, clientClosed, true,
		},
		"the client has closed": {
			func(m *memoryTunnel) { m.client.send(m.client.closeFrame(1001, "")) }, clientClosed, true,
		},
		"both have closed": {
			func(m *memoryTunnel) {
				m.upstream.send(m.upstream.closeFrame(1001, ""))
				synctest.Wait()
				m.client.send(m.client.closeFrame(1001, ""))
			}, upstreamClosed, true,
		},
		"the upstream has ended its stream": {
			func(m *memoryTunnel) { _ = m.upstream.CloseWrite() }, upstreamClosed, true,
		},
		"it was asked to close": {
			func(m *memoryTunnel) { m.end(killed, 1001) }, killed, true,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, tunnelPolicy{}, func(m *memoryTunnel) {
				test.prepare(m)
				synctest.Wait()
				m.clientGone(syscall.ECONNRESET)
				m.expectLeft(test.reason)
				m.upstream.in.forget()
				if test.regular {
					m.upstream.expectEnd()
				} else {
					m.upstream.expectReset()
				}
			})
		})
	}
}

// What comes after the client has gone is not why the tunnel ends.
func TestNothingElseEndsATunnelWhoseClientHasGone(t *testing.T) {
	for name, happen := range map[string]func(m *memoryTunnel){
		"an operator":         func(m *memoryTunnel) { m.end(killed, 1001) },
		"the upstream's end":  func(m *memoryTunnel) { _ = m.upstream.Close() },
		"a reset":             func(m *memoryTunnel) { m.upstream.reset() },
		"that it is said now": func(m *memoryTunnel) { m.clientGone(syscall.ETIMEDOUT) },
		"the client's end":    func(m *memoryTunnel) { m.client.reset() },
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, tunnelPolicy{}, func(m *memoryTunnel) {
				m.clientGone(syscall.ECONNRESET)
				synctest.Wait()
				happen(m)
				m.expectLeft(clientReset)
				m.clientGone(syscall.ETIMEDOUT) // has no effect any more
			})
		})
	}
}

func TestLastWordsOfAClientThatHasGoneReachTheUpstream(t *testing.T) {
	for name, test := range map[string]struct {
		last   func(m *memoryTunnel) string
		reason reason
	}{
		"without a Close": {func(*memoryTunnel) string { return "" }, clientReset},
		"and a Close":     {func(m *memoryTunnel) string { return m.client.closeFrame(1001, "bye") }, clientClosed},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, tunnelPolicy{}, func(m *memoryTunnel) {
				words := m.client.frame(testbed.Binary, strings.Repeat("x", 10_000)) + test.last(m)
				m.others.Go(func() {
					_, _ = m.client.Write([]byte(words))
					m.client.reset()
				})
				synctest.Wait() // as the upstream does not read
				m.clientGone(syscall.ECONNRESET)
				time.Sleep(leaveTime / 2)
				got := make([]byte, len(words))
				if n, err := io.ReadFull(m.upstream, got); err != nil || string(got) != words {
					t.Fatalf("got %d bytes, %v, want %d", n, err, len(words))
				}
				if test.reason == clientReset {
					m.upstream.expectReset()
				} else {
					m.upstream.expectEnd()
				}
				m.expectLeft(test.reason)
			})
		})
	}
}

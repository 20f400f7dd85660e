package tunnel

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
func (m *memoryTunnel) expectLeft(want Reason) {
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
		reason  Reason
		regular bool // the upstream knows of an end that is regular
	}{
		"the upstream reads nothing": {
			func(m *memoryTunnel) {
				m.others.Go(func() { _, _ = m.client.Write([]byte(m.client.frame(testbed.Binary, tooMuch))) })
			}, ClientReset, false,
		},
		"the upstream reads nothing, and the client takes nothing": {
			func(m *memoryTunnel) {
				m.client.stopReading()
				m.others.Go(func() { _, _ = m.client.Write([]byte(m.client.frame(testbed.Binary, tooMuch))) })
				m.upstream.send(m.upstream.frame(testbed.Text, "news"))
			}, ClientReset, false,
		},
		"the upstream talks without end": {
			func(m *memoryTunnel) {
				m.others.Go(m.upstream.talk)
				m.others.Go(m.client.listen)
			}, ClientReset, false,
		},
		"both are silent": {func(*memoryTunnel) {}, ClientReset, false},
		"the client has ended its stream": {
			func(m *memoryTunnel) { _ = m.client.CloseWrite() }, ClientClosed, true,
		},
		"the client has closed": {
			func(m *memoryTunnel) { m.client.send(m.client.closeFrame(1001, "")) }, ClientClosed, true,
		},
		"both have closed": {
			func(m *memoryTunnel) {
				m.upstream.send(m.upstream.closeFrame(1001, ""))
				synctest.Wait()
				m.client.send(m.client.closeFrame(1001, ""))
			}, UpstreamClosed, true,
		},
		"the upstream has ended its stream": {
			func(m *memoryTunnel) { _ = m.upstream.CloseWrite() }, UpstreamClosed, true,
		},
		"it was asked to close": {
			func(m *memoryTunnel) { m.end(Killed, 1001) }, Killed, true,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{}, func(m *memoryTunnel) {
				test.prepare(m)
				synctest.Wait()
				m.ClientGone(syscall.ECONNRESET)
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
		"an operator":         func(m *memoryTunnel) { m.end(Killed, 1001) },
		"the upstream's end":  func(m *memoryTunnel) { _ = m.upstream.Close() },
		"a reset":             func(m *memoryTunnel) { m.upstream.reset() },
		"that it is said now": func(m *memoryTunnel) { m.ClientGone(syscall.ETIMEDOUT) },
		"the client's end":    func(m *memoryTunnel) { m.client.reset() },
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{}, func(m *memoryTunnel) {
				m.ClientGone(syscall.ECONNRESET)
				synctest.Wait()
				happen(m)
				m.expectLeft(ClientReset)
				m.ClientGone(syscall.ETIMEDOUT) // has no effect any more
			})
		})
	}
}

func TestLastWordsOfAClientThatHasGoneReachTheUpstream(t *testing.T) {
	for name, test := range map[string]struct {
		last   func(m *memoryTunnel) string
		reason Reason
	}{
		"without a Close": {func(*memoryTunnel) string { return "" }, ClientReset},
		"and a Close":     {func(m *memoryTunnel) string { return m.client.closeFrame(1001, "bye") }, ClientClosed},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{}, func(m *memoryTunnel) {
				words := m.client.frame(testbed.Binary, strings.Repeat("x", 10_000)) + test.last(m)
				m.others.Go(func() {
					_, _ = m.client.Write([]byte(words))
					m.client.reset()
				})
				synctest.Wait() // as the upstream does not read
				m.ClientGone(syscall.ECONNRESET)
				time.Sleep(leaveTime / 2)
				got := make([]byte, len(words))
				if n, err := io.ReadFull(m.upstream, got); err != nil || string(got) != words {
					t.Fatalf("got %d bytes, %v, want %d", n, err, len(words))
				}
				if test.reason == ClientReset {
					m.upstream.expectReset()
				} else {
					m.upstream.expectEnd()
				}
				m.expectLeft(test.reason)
			})
		})
	}
}

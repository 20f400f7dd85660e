package tunnel

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// stopReading makes whatever is sent to the peer fail, while what it has sent
// itself can still be read.
func (p *memoryPeer) stopReading() {
	p.in.end(syscall.EPIPE, syscall.ECONNRESET)
}

// expectLastWords has a peer stop reading, so that what the other one sends is lost, and
// then say something and close: the other one gets that to the end, and closes.
func (p *memoryPeer) expectLastWords(other *memoryPeer, lost, words string) {
	p.t.Helper()
	p.stopReading()
	other.send(lost)
	synctest.Wait()
	p.send(words)
	_ = p.Close()
	other.expect(words)
	other.expectEnd()
	_ = other.Close()
}

// An upstream that refuses a message says so and closes, while the client still
// sends.
func TestLastWordsOfAnUpstreamThatStopsReadingReachTheClient(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		sorry := m.upstream.frame(testbed.Text, "sorry") + m.upstream.closeFrame(1009, "too big")
		m.upstream.expectLastWords(m.client, m.client.frame(testbed.Binary, "too much"), sorry)
		m.expectReason(UpstreamClosed)
		m.expectClose(Upstream, 1009)
	})
}

// A browser whose page is closed does not take what is on its way to it.
func TestLastWordsOfAClientThatStopsReadingReachTheUpstream(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		bye := m.client.frame(testbed.Text, "save this") + m.client.closeFrame(1001, "")
		m.client.expectLastWords(m.upstream, m.upstream.frame(testbed.Text, "news"), bye)
		m.expectReason(ClientClosed)
		m.expectClose(Client, 1001)
	})
}

func TestNoLastWordsFollow(t *testing.T) {
	t.Run("of a silent upstream", func(t *testing.T) {
		inMemory(t, Options{}, func(m *memoryTunnel) {
			m.upstream.stopReading()
			m.client.send(m.client.frame(testbed.Binary, "lost"))
			m.expectReason(UpstreamReset)
			m.expectAge(drainTime + lingerTime)
		})
	})
	t.Run("of an upstream that talks without end", func(t *testing.T) {
		inMemory(t, Options{}, func(m *memoryTunnel) {
			m.upstream.stopReading()
			m.client.send(m.client.frame(testbed.Binary, "lost"))
			m.others.Go(m.upstream.talk)
			m.others.Go(m.client.listen)
			m.expectReason(UpstreamReset)
			m.expectAge(drainTime + lingerTime)
		})
	})
	t.Run("of a client that was reset", func(t *testing.T) {
		inMemory(t, Options{}, func(m *memoryTunnel) {
			m.client.reset()
			m.upstream.expectReset()
			m.expectReason(ClientReset)
			if took := time.Since(m.began); took != 0 {
				t.Errorf("the end took %v though both peers are gone", took)
			}
		})
	})
}

// The upstream goes on after the client's end of stream, until the client is
// seen to be gone altogether.
func TestHalfClosedTunnelEndsWhenItsReceiverHasGone(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		_ = m.client.CloseWrite()
		m.others.Go(m.upstream.talk)
		time.Sleep(10 * time.Second)
		m.expectOnlyHalfClosed()
		m.client.stopReading()
		m.expectReason(ClientClosed)
		m.expectAge(10*time.Second + lingerTime)
	})
}

func (m *memoryTunnel) expectOnlyHalfClosed() {
	m.t.Helper()
	m.expectLive()
	if !m.halfClosed() {
		m.t.Error("the tunnel is not half-closed")
	}
}

// talk sends until that fails.
func (p *memoryPeer) talk() {
	word := []byte(p.frame(testbed.Text, "blah"))
	for {
		if _, err := p.Write(word); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// listen reads until the end.
func (p *memoryPeer) listen() {
	buf := make([]byte, 1000)
	for {
		if _, err := p.Read(buf); err != nil {
			return
		}
	}
}

package tunnel

import (
	"testing"
	"time"
)

// Whoever says Close first, and whoever closes the connection first after
// that, both peers see a closing handshake and the end, at once.
func TestClosingHandshake(t *testing.T) {
	tests := map[string]struct {
		first       func(m *memoryTunnel) (first, second *memoryPeer)
		disconnects func(m *memoryTunnel) (first, second *memoryPeer)
		want        Reason
		from        Peer
	}{
		"by the client, who disconnects":      {clientFirst, clientFirst, ClientClosed, Client},
		"by the client, upstream disconnects": {clientFirst, upstreamFirst, ClientClosed, Client},
		"by the upstream, who disconnects":    {upstreamFirst, upstreamFirst, UpstreamClosed, Upstream},
		"by the upstream, client disconnects": {upstreamFirst, clientFirst, UpstreamClosed, Upstream},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{}, func(m *memoryTunnel) {
				first, second := test.first(m)
				bye := first.closeFrame(4242, "bye")
				first.send(bye)
				second.expect(bye)
				m.expectLive()
				answer := second.closeFrame(4242, "")
				second.send(answer)
				first.expect(answer)
				m.client.expectOpen()
				m.upstream.expectOpen()

				first, second = test.disconnects(m)
				_ = first.CloseWrite()
				second.expectEnd()
				_ = second.Close()
				first.expectEnd()
				m.expectReason(test.want)
				m.expectClose(test.from, 4242)
				if took := time.Since(m.began); took != 0 {
					t.Errorf("the end took %v", took)
				}
			})
		})
	}
}

func clientFirst(m *memoryTunnel) (first, second *memoryPeer)   { return m.client, m.upstream }
func upstreamFirst(m *memoryTunnel) (first, second *memoryPeer) { return m.upstream, m.client }

// Only one of them keeps its connection open when all has been said.
func TestPeerThatNeverDisconnectsDoesNotHoldTheTunnel(t *testing.T) {
	tests := map[string]func(m *memoryTunnel) (goes, stays *memoryPeer){
		"client":   upstreamFirst,
		"upstream": clientFirst,
	}
	for name, peers := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{}, func(m *memoryTunnel) {
				goes, stays := peers(m)
				m.step(clientSaysClose, upstreamSaysClose)
				m.client.in.forget()
				m.upstream.in.forget()
				_ = goes.Close()
				stays.expectEnd() // it is told
				m.others.Go(stays.talk)
				m.expectReason(ClientClosed)
				m.expectAge(lingerTime)
			})
		})
	}
}

// Both say Close at the same time.
func TestClosingHandshakesThatCross(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		fromClient, fromUpstream := m.client.closeFrame(1000, ""), m.upstream.closeFrame(1001, "")
		m.client.send(fromClient)
		m.upstream.send(fromUpstream)
		m.client.expect(fromUpstream)
		m.upstream.expect(fromClient)
		_ = m.upstream.Close()
		m.client.expectEnd()
		_ = m.client.Close()
		<-m.done
		if why := (<-m.reports).Reason; !why.isClosed() || m.why.ClosedBy() != m.closeFrom {
			t.Errorf("ended by %s with the first Close from %s, want one of the peers for both", why, m.closeFrom)
		}
	})
}

// Many servers close their connection right after their Close.
func TestUpstreamThatDoesNotWaitForTheAnswer(t *testing.T) {
	inMemory(t, Options{}, func(m *memoryTunnel) {
		bye := m.upstream.closeFrame(1011, "sorry")
		m.upstream.send(bye)
		_ = m.upstream.Close()
		m.client.expect(bye)
		m.client.expectEnd()
		m.client.send(m.client.closeFrame(1011, ""))
		_ = m.client.Close()
		m.expectReason(UpstreamClosed)
		m.expectClose(Upstream, 1011)
	})
}

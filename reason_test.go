package websocketproxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestFailuresHaveReasons(t *testing.T) {
	reset := [2]reason{clientReset, upstreamReset}
	lost := [2]reason{clientLost, upstreamLost}
	other := [2]reason{clientError, upstreamError}
	for _, test := range []struct {
		err  error
		want [2]reason // of the client, of the upstream
	}{
		{syscall.ECONNRESET, reset},
		{syscall.EPIPE, reset},
		{syscall.ENOTCONN, reset},
		{io.ErrClosedPipe, reset},
		{wsaConnReset, reset},
		{wsaConnAborted, reset},
		{fmt.Errorf("%w: client disconnected", relay.ErrReset), reset},
		{fmt.Errorf("%w: %w", relay.ErrReset, &quic.StreamError{StreamID: 4, Remote: true}), reset},
		{syscall.ETIMEDOUT, lost},
		{syscall.EHOSTUNREACH, lost},
		{syscall.ENETUNREACH, lost},
		{wsaTimedOut, lost},
		{wsaHostUnreach, lost},
		{&quic.IdleTimeoutError{}, lost},
		{os.ErrDeadlineExceeded, other},
		{tls.AlertError(20), other},
		{tls.RecordHeaderError{Msg: "garbage"}, other},
		{net.ErrClosed, other},
		{errors.New("something else"), other},
	} {
		for i, p := range []peer{peerClient, peerUpstream} {
			for name, err := range map[string]error{
				"bare":        test.err,
				"wrapped":     fmt.Errorf("reading: %w", test.err),
				"of the net":  &net.OpError{Op: "read", Net: "tcp", Err: test.err},
				"of a call":   &net.OpError{Op: "read", Err: os.NewSyscallError("read", test.err)},
				"of a stream": fmt.Errorf("%w: %w", io.ErrNoProgress, test.err),
			} {
				if got := failed(p, err); got != test.want[i] {
					t.Errorf("%s, %s: %v is %s, want %s", p, name, test.err, got, test.want[i])
				}
			}
		}
	}
}

func TestEachDirectionBlamesTheRightPeer(t *testing.T) {
	for _, test := range []struct {
		d    relay.Direction
		end  relay.End
		want reason
	}{
		{relay.ClientToUpstream, relay.End{}, clientClosed},
		{relay.UpstreamToClient, relay.End{}, upstreamClosed},
		{relay.ClientToUpstream, relay.End{Err: syscall.ECONNRESET}, clientReset},
		{relay.UpstreamToClient, relay.End{Err: syscall.ECONNRESET}, upstreamReset},
		{relay.ClientToUpstream, relay.End{Err: syscall.EPIPE, Writing: true}, upstreamReset},
		{relay.UpstreamToClient, relay.End{Err: syscall.EPIPE, Writing: true}, clientReset},
	} {
		if got := endedBy(test.d, test.end); got != test.want {
			t.Errorf("direction %d ended with %+v is %s, want %s", test.d, test.end, got, test.want)
		}
	}
}

func TestReasonsBlameOneOfThree(t *testing.T) {
	for p, reasons := range map[peer][]reason{
		peerClient:   {clientClosed, clientReset, clientLost, clientError},
		peerUpstream: {upstreamClosed, upstreamReset, upstreamLost, upstreamError},
		peerProxy:    {idleTimeout, writeTimeout, halfCloseTimeout, maxLifetime, pingTimeout, messageTooBig, rateLimited},
	} {
		for _, why := range reasons {
			if got := why.closedBy(); got != p {
				t.Errorf("%s is the doing of the %s, want %s", why, got, p)
			}
		}
	}
}

func TestFirstCauseIsTheReason(t *testing.T) {
	tests := map[string]struct {
		happens func(m *memoryTunnel)
		want    reason
		from    peer // of the first Close
	}{
		"client ends its stream": {
			func(m *memoryTunnel) { m.step(clientEnds, upstreamEnds) },
			clientClosed, "",
		},
		"upstream ends its stream": {
			func(m *memoryTunnel) { m.step(upstreamEnds, clientEnds) },
			upstreamClosed, "",
		},
		"client says Close": {
			func(m *memoryTunnel) { m.step(clientSaysClose, upstreamEnds, clientEnds) },
			clientClosed, peerClient,
		},
		"upstream says Close": {
			func(m *memoryTunnel) { m.step(upstreamSaysClose, clientEnds, upstreamEnds) },
			upstreamClosed, peerUpstream,
		},
		"client ends its stream and the upstream says Close": {
			func(m *memoryTunnel) { m.step(clientEnds, upstreamSaysClose, upstreamEnds) },
			clientClosed, peerUpstream,
		},
		"upstream ends its stream and the client says Close": {
			func(m *memoryTunnel) { m.step(upstreamEnds, clientSaysClose, clientEnds) },
			upstreamClosed, peerClient,
		},
		"client resets": {
			func(m *memoryTunnel) { m.step(clientResets) },
			clientReset, "",
		},
		"upstream resets": {
			func(m *memoryTunnel) { m.step(upstreamResets) },
			upstreamReset, "",
		},
		"client says Close and resets": {
			func(m *memoryTunnel) { m.step(clientSaysClose, clientResets) },
			clientClosed, peerClient,
		},
		"client says Close and the upstream resets": {
			func(m *memoryTunnel) { m.step(clientSaysClose, upstreamResets) },
			clientClosed, peerClient,
		},
		"upstream says Close and the client resets": {
			func(m *memoryTunnel) { m.step(upstreamSaysClose, clientResets) },
			upstreamClosed, peerUpstream,
		},
		"client ends its stream and the upstream resets": {
			func(m *memoryTunnel) { m.step(clientEnds, upstreamResets) },
			clientClosed, "",
		},
		"client resets and the upstream resets": {
			func(m *memoryTunnel) { m.step(clientResets, upstreamResets) },
			clientReset, "",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, tunnelPolicy{}, func(m *memoryTunnel) {
				test.happens(m)
				m.expectReason(test.want)
				if m.closeFrom != test.from {
					t.Errorf("the first Close is from %q, want %q", m.closeFrom, test.from)
				}
			})
		})
	}
}

// step lets things happen one after the other.
func (m *memoryTunnel) step(happens ...func(m *memoryTunnel)) {
	for _, thing := range happens {
		thing(m)
		_ = m.client.has() + m.upstream.has()
	}
}

func clientEnds(m *memoryTunnel)     { _ = m.client.CloseWrite() }
func upstreamEnds(m *memoryTunnel)   { _ = m.upstream.CloseWrite() }
func clientResets(m *memoryTunnel)   { m.client.reset() }
func upstreamResets(m *memoryTunnel) { m.upstream.reset() }

func clientSaysClose(m *memoryTunnel) {
	m.client.send(m.client.frame(testbed.Text, "last") + m.client.closeFrame(1000, ""))
}

func upstreamSaysClose(m *memoryTunnel) {
	m.upstream.send(m.upstream.frame(testbed.Text, "last") + m.upstream.closeFrame(1000, ""))
}

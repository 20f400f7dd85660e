package tunnel

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
	reset := [2]Reason{ClientReset, UpstreamReset}
	lost := [2]Reason{ClientLost, UpstreamLost}
	other := [2]Reason{ClientError, UpstreamError}
	for _, test := range []struct {
		err  error
		want [2]Reason // of the client, of the upstream
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
		for i, p := range []Peer{Client, Upstream} {
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
		want Reason
	}{
		{relay.ClientToUpstream, relay.End{}, ClientClosed},
		{relay.UpstreamToClient, relay.End{}, UpstreamClosed},
		{relay.ClientToUpstream, relay.End{Err: syscall.ECONNRESET}, ClientReset},
		{relay.UpstreamToClient, relay.End{Err: syscall.ECONNRESET}, UpstreamReset},
		{relay.ClientToUpstream, relay.End{Err: syscall.EPIPE, Writing: true}, UpstreamReset},
		{relay.UpstreamToClient, relay.End{Err: syscall.EPIPE, Writing: true}, ClientReset},
	} {
		if got := endedBy(test.d, test.end); got != test.want {
			t.Errorf("direction %d ended with %+v is %s, want %s", test.d, test.end, got, test.want)
		}
	}
}

func TestReasonsBlameOneOfThree(t *testing.T) {
	for p, reasons := range map[Peer][]Reason{
		Client:   {ClientClosed, ClientReset, ClientLost, ClientError},
		Upstream: {UpstreamClosed, UpstreamReset, UpstreamLost, UpstreamError},
		Proxy:    {IdleTimeout, WriteTimeout, HalfCloseTimeout, MaxLifetime, PingTimeout, MessageTooBig, RateLimited},
	} {
		for _, why := range reasons {
			if got := why.ClosedBy(); got != p {
				t.Errorf("%s is the doing of the %s, want %s", why, got, p)
			}
		}
	}
}

func TestFirstCauseIsTheReason(t *testing.T) {
	tests := map[string]struct {
		happens func(m *memoryTunnel)
		want    Reason
		from    Peer // of the first Close
	}{
		"client ends its stream": {
			func(m *memoryTunnel) { m.step(clientEnds, upstreamEnds) },
			ClientClosed, "",
		},
		"upstream ends its stream": {
			func(m *memoryTunnel) { m.step(upstreamEnds, clientEnds) },
			UpstreamClosed, "",
		},
		"client says Close": {
			func(m *memoryTunnel) { m.step(clientSaysClose, upstreamEnds, clientEnds) },
			ClientClosed, Client,
		},
		"upstream says Close": {
			func(m *memoryTunnel) { m.step(upstreamSaysClose, clientEnds, upstreamEnds) },
			UpstreamClosed, Upstream,
		},
		"client ends its stream and the upstream says Close": {
			func(m *memoryTunnel) { m.step(clientEnds, upstreamSaysClose, upstreamEnds) },
			ClientClosed, Upstream,
		},
		"upstream ends its stream and the client says Close": {
			func(m *memoryTunnel) { m.step(upstreamEnds, clientSaysClose, clientEnds) },
			UpstreamClosed, Client,
		},
		"client resets": {
			func(m *memoryTunnel) { m.step(clientResets) },
			ClientReset, "",
		},
		"upstream resets": {
			func(m *memoryTunnel) { m.step(upstreamResets) },
			UpstreamReset, "",
		},
		"client says Close and resets": {
			func(m *memoryTunnel) { m.step(clientSaysClose, clientResets) },
			ClientClosed, Client,
		},
		"client says Close and the upstream resets": {
			func(m *memoryTunnel) { m.step(clientSaysClose, upstreamResets) },
			ClientClosed, Client,
		},
		"upstream says Close and the client resets": {
			func(m *memoryTunnel) { m.step(upstreamSaysClose, clientResets) },
			UpstreamClosed, Upstream,
		},
		"client ends its stream and the upstream resets": {
			func(m *memoryTunnel) { m.step(clientEnds, upstreamResets) },
			ClientClosed, "",
		},
		"client resets and the upstream resets": {
			func(m *memoryTunnel) { m.step(clientResets, upstreamResets) },
			ClientReset, "",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inMemory(t, Options{}, func(m *memoryTunnel) {
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

package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// Reason says why a tunnel ended. It is the same word in logs, metrics and
// the documentation.
type Reason string

// The reasons.
const (
	// ClientClosed and UpstreamClosed: the peer closed, as it was the first to send a
	// Close frame or to end its stream.
	ClientClosed   Reason = "client_closed"
	UpstreamClosed Reason = "upstream_closed"
	// ClientReset and UpstreamReset: the peer's connection was reset.
	ClientReset   Reason = "client_reset"
	UpstreamReset Reason = "upstream_reset"
	// ClientLost and UpstreamLost: the peer cannot be reached any more.
	ClientLost   Reason = "client_lost"
	UpstreamLost Reason = "upstream_lost"
	// ClientError and UpstreamError: the peer's connection failed in another way, such
	// as a TLS alert.
	ClientError   Reason = "client_error"
	UpstreamError Reason = "upstream_error"

	IdleTimeout      Reason = "idle_timeout"
	WriteTimeout     Reason = "write_timeout"
	HalfCloseTimeout Reason = "half_close_timeout"
	MaxLifetime      Reason = "max_lifetime"
	PingTimeout      Reason = "ping_timeout"
	// Expired: what the client has come with, such as a token, has expired.
	Expired Reason = "expired"

	MessageTooBig Reason = "message_too_big"
	RateLimited   Reason = "rate_limited"

	// Evicted: the upstream is not configured any more, or an operator has emptied it.
	Evicted Reason = "evicted"
	// Unhealthy: the upstream has failed its check.
	Unhealthy Reason = "unhealthy"
	// Rebalanced: another upstream had fewer tunnels.
	Rebalanced Reason = "rebalanced"
	// Killed: an operator has closed the tunnel.
	Killed Reason = "killed"
	// Shutdown: the process exits.
	Shutdown Reason = "shutdown"
)

// Reasons are all of them.
var Reasons = []Reason{
	ClientClosed, UpstreamClosed, ClientReset, UpstreamReset, ClientLost, UpstreamLost, ClientError, UpstreamError,
	IdleTimeout, WriteTimeout, HalfCloseTimeout, MaxLifetime, PingTimeout, Expired, MessageTooBig, RateLimited,
	Evicted, Unhealthy, Rebalanced, Killed, Shutdown,
}

// Peer is who did something.
type Peer string

// The peers.
const (
	Client   Peer = "client"
	Upstream Peer = "upstream"
	Proxy    Peer = "proxy"
)

// ClosedBy is the peer that a reason blames by itself.
func (why Reason) ClosedBy() Peer {
	switch why {
	case ClientClosed, ClientReset, ClientLost, ClientError:
		return Client
	case UpstreamClosed, UpstreamReset, UpstreamLost, UpstreamError:
		return Upstream
	}
	return Proxy
}

// isClosed reports whether why is a regular end by one of the peers.
func (why Reason) isClosed() bool {
	return why == ClientClosed || why == UpstreamClosed
}

// source is the peer whose bytes travel in direction d.
func source(d relay.Direction) Peer {
	if d == relay.ClientToUpstream {
		return Client
	}
	return Upstream
}

// closed is the reason for an end of the tunnel by p.
func closed(p Peer) Reason {
	if p == Client {
		return ClientClosed
	}
	return UpstreamClosed
}

// violated is the reason for an end because p has violated the protocol.
func violated(p Peer) Reason {
	if p == Client {
		return ClientError
	}
	return UpstreamError
}

// endedBy is the reason for the end of a direction.
func endedBy(d relay.Direction, end relay.End) Reason {
	switch {
	case end.Err == nil:
		return closed(source(d))
	case end.Writing:
		return failed(source(d.Opposite()), end.Err)
	}
	return failed(source(d), end.Err)
}

// What Windows says for a connection that was reset, and for one that is lost.
const (
	wsaConnAborted = syscall.Errno(10053)
	wsaConnReset   = syscall.Errno(10054)
	wsaTimedOut    = syscall.Errno(10060)
	wsaHostUnreach = syscall.Errno(10065)
)

var (
	resetErrors = []error{
		syscall.ECONNRESET, syscall.EPIPE, wsaConnReset, wsaConnAborted, io.ErrClosedPipe, relay.ErrReset,
		syscall.ENOTCONN, // an end of stream for a peer that has reset the connection
	}
	lostErrors = []error{
		syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, wsaTimedOut, wsaHostUnreach,
	}
)

// failed is the reason for an error on p's connection.
func failed(p Peer, err error) Reason {
	reset, lost, other := ClientReset, ClientLost, ClientError
	if p == Upstream {
		reset, lost, other = UpstreamReset, UpstreamLost, UpstreamError
	}
	var timeout net.Error
	switch is := func(target error) bool { return errors.Is(err, target) }; {
	case slices.ContainsFunc(lostErrors, is):
		return lost
	case slices.ContainsFunc(resetErrors, is):
		return reset
	case errors.Is(err, os.ErrDeadlineExceeded):
		return other // ours, not the network's
	case errors.As(err, &timeout) && timeout.Timeout():
		return lost // such as QUIC's idle timeout
	}
	return other
}

// noteEndLocked remembers why the first direction has ended.
func (t *Tunnel) noteEndLocked(d relay.Direction, end relay.End) {
	if t.why == "" {
		t.why = endedBy(d, end)
	}
}

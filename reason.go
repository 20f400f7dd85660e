package websocketproxy

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// A reason says why a tunnel ended. It is the same word in logs, metrics and
// the documentation.
type reason string

const (
	// The peer closed: it was the first to send a Close frame or to end its
	// stream.
	clientClosed   reason = "client_closed"
	upstreamClosed reason = "upstream_closed"
	// The peer's connection was reset.
	clientReset   reason = "client_reset"
	upstreamReset reason = "upstream_reset"
	// The peer cannot be reached any more.
	clientLost   reason = "client_lost"
	upstreamLost reason = "upstream_lost"
	// The peer's connection failed in another way, such as a TLS alert.
	clientError   reason = "client_error"
	upstreamError reason = "upstream_error"

	idleTimeout      reason = "idle_timeout"
	writeTimeout     reason = "write_timeout"
	halfCloseTimeout reason = "half_close_timeout"
	maxLifetime      reason = "max_lifetime"
	pingTimeout      reason = "ping_timeout"

	messageTooBig reason = "message_too_big"
	rateLimited   reason = "rate_limited"

	// The upstream is not configured any more, or an operator has emptied it.
	evicted reason = "evicted"
	// The upstream has failed its check.
	unhealthy reason = "unhealthy"
	// Another upstream had fewer tunnels.
	rebalanced reason = "rebalanced"
	// An operator has closed the tunnel.
	killed reason = "killed"
	// The process exits.
	shutdown reason = "shutdown"
)

// peer is who did something.
type peer string

const (
	peerClient   peer = "client"
	peerUpstream peer = "upstream"
	peerProxy    peer = "proxy"
)

// closedBy is the peer that a reason blames by itself; see tunnel.closedBy.
func (why reason) closedBy() peer {
	switch why {
	case clientClosed, clientReset, clientLost, clientError:
		return peerClient
	case upstreamClosed, upstreamReset, upstreamLost, upstreamError:
		return peerUpstream
	}
	return peerProxy
}

// isClosed reports whether why is a regular end by one of the peers.
func (why reason) isClosed() bool {
	return why == clientClosed || why == upstreamClosed
}

// source is the peer whose bytes travel in direction d.
func source(d relay.Direction) peer {
	if d == relay.ClientToUpstream {
		return peerClient
	}
	return peerUpstream
}

// closed is the reason for an end of the tunnel by p.
func closed(p peer) reason {
	if p == peerClient {
		return clientClosed
	}
	return upstreamClosed
}

// violated is the reason for an end because p has violated the protocol.
func violated(p peer) reason {
	if p == peerClient {
		return clientError
	}
	return upstreamError
}

// endedBy is the reason for the end of a direction.
func endedBy(d relay.Direction, end relay.End) reason {
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
func failed(p peer, err error) reason {
	reset, lost, other := clientReset, clientLost, clientError
	if p == peerUpstream {
		reset, lost, other = upstreamReset, upstreamLost, upstreamError
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

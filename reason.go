package websocketproxy

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// A reason says why a tunnel ended. It is the same word in logs, metrics and
// the documentation.
type reason string

const (
	// The peer closed: by the first Close frame or, without one, by the first
	// end of stream.
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
)

// peer is who did something.
type peer string

const (
	client   peer = "client"
	upstream peer = "upstream"
	proxy    peer = "proxy"
)

// closedBy is the peer that a reason blames.
func (why reason) closedBy() peer {
	switch why {
	case clientClosed, clientReset, clientLost, clientError:
		return client
	case upstreamClosed, upstreamReset, upstreamLost, upstreamError:
		return upstream
	}
	return proxy
}

// source is the peer whose bytes travel in direction d.
func source(d relay.Direction) peer {
	if d == relay.ClientToUpstream {
		return client
	}
	return upstream
}

// closed is the reason for an end of the tunnel by p.
func closed(p peer) reason {
	if p == client {
		return clientClosed
	}
	return upstreamClosed
}

// failed is the reason for an error on p's connection.
func failed(p peer, err error) reason {
	reset, lost, other := clientReset, clientLost, clientError
	if p == upstream {
		reset, lost, other = upstreamReset, upstreamLost, upstreamError
	}
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		return reset
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return lost
	case errors.Is(err, os.ErrDeadlineExceeded):
		return other // ours, not the network's
	case errors.As(err, &timeout) && timeout.Timeout():
		return lost // such as QUIC's idle timeout
	case errors.Is(err, errStreamReset):
		return reset
	}
	return other
}

package websocketproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// dialer performs handshakes with upstreams.
type dialer struct {
	// connect opens a connection.
	connect func(ctx context.Context, network, address string) (net.Conn, error)
	// probes is set if connect has said how TCP probes silent peers.
	probes bool
	// timeout is for connecting and for TLS, unless this has tlsTimeout.
	timeout, tlsTimeout time.Duration
	// answerTimeout is for the header of an answer. Zero means as long as the context
	// lets it.
	answerTimeout time.Duration
	// maxHeader is the most bytes that this header may have; zero means
	// [maxAnswerHeader].
	maxHeader int64
}

// target is an address where a handshake may be performed.
type target struct {
	network, address string
	hostname, port   string // of the address
}

const (
	// keepaliveIdle is how long a connection is silent before TCP probes whether
	// its peer is still there, in place of Go's 15 seconds: those would be 70,000
	// probes a second for a million idle tunnels.
	keepaliveIdle = time.Minute
	// keepaliveInterval is the time between probes that are not answered.
	keepaliveInterval = 10 * time.Second
)

// dial connects to an address, with TLS if there is a configuration for that.
func (d *dialer) dial(ctx context.Context, to target, secure *tls.Config) (net.Conn, error) {
	connecting, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	c, err := d.open(connecting, to)
	if err != nil || secure == nil {
		return c, err
	}
	if d.tlsTimeout > 0 {
		connecting, cancel = context.WithTimeout(ctx, d.tlsTimeout)
		defer cancel()
	}
	secured := tls.Client(c, secure)
	if err := secured.HandshakeContext(connecting); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS: %w", err), ignoreClosed(c.Close()))
	}
	return secured, nil
}

// open opens the connection. Some hide what kind of error they met, so the clock
// tells whether the time was over.
func (d *dialer) open(ctx context.Context, to target) (net.Conn, error) {
	c, err := d.connect(ctx, to.network, to.address)
	if err != nil && isOver(ctx) {
		err = timeoutError{err}
	}
	if tcp, ok := c.(*net.TCPConn); ok && !d.probes {
		const unchanged = -1
		// A connection that it fails for has just been reset, which is noticed
		// soon enough.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: unchanged,
		})
	}
	return c, err
}

// ignoreClosed drops the error of closing what was closed already.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Package dial performs a handshake at one address: it connects, with or without TLS,
// sends the request, reads the header of the answer, and has a 101 verified. How a
// connection is opened is a function that it is given. It knows neither Caddy nor who
// has chosen the address, and has no locks. Its errors are facts: which cause,
// status or log line they make is for its callers to say.
package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// Dialer performs handshakes with upstreams.
type Dialer struct {
	// Connect opens a connection without TLS.
	Connect func(ctx context.Context, network, address string) (net.Conn, error)
	// OwnProbes is set if Connect says how TCP probes silent peers.
	OwnProbes bool
	// Timeout is for connecting and for TLS, unless this has its own TLSTimeout.
	Timeout, TLSTimeout time.Duration
	// AnswerTimeout is for the header of an answer. Zero means as long as the context
	// lets it.
	AnswerTimeout time.Duration
	// By is when all of a handshake has to be over; zero means whenever.
	By time.Time
	// MaxHeader is the most bytes that this header may have; zero means 1 MiB.
	MaxHeader int64
}

// Target is an address where a handshake may be performed: what is dialed, and its
// parts.
type Target struct {
	Network, Address, Hostname, Port string
}

const (
	// keepaliveIdle is how long a connection is silent before TCP probes whether
	// its peer is still there, in place of Go's 15 seconds: those would be 70,000
	// probes a second for a million idle tunnels.
	keepaliveIdle = time.Minute
	// keepaliveInterval is the time between probes that are not answered.
	keepaliveInterval = 10 * time.Second
)

// Dial connects to an address, with TLS if there is a configuration for that. Its
// error is a timeout if the time was over.
func (d *Dialer) Dial(ctx context.Context, to Target, secure *tls.Config) (net.Conn, error) {
	connecting, cancel := context.WithDeadline(ctx, d.within(d.Timeout))
	defer cancel()
	c, err := d.open(connecting, to)
	if err != nil || secure == nil {
		return c, err
	}
	if d.TLSTimeout > 0 {
		connecting, cancel = context.WithDeadline(ctx, d.within(d.TLSTimeout))
		defer cancel()
	}
	secured := tls.Client(c, secure)
	returned := false
	defer closeUnless(&returned, c)
	err = secured.HandshakeContext(connecting)
	if returned = true; err != nil {
		return nil, errors.Join(tlsError{err}, ignoreClosed(c.Close()))
	}
	return secured, nil
}

// within returns when a time is over that begins now, or all has to be.
func (d *Dialer) within(limit time.Duration) time.Time {
	end := time.Now().Add(limit)
	if !d.By.IsZero() && d.By.Before(end) {
		return d.By
	}
	return end
}

// open opens the connection. Some hide what kind of error they met, so the clock
// tells whether the time was over.
func (d *Dialer) open(ctx context.Context, to Target) (net.Conn, error) {
	c, err := d.Connect(ctx, to.Network, to.Address)
	if err != nil && IsOver(ctx) {
		err = timeoutError{err}
	}
	if tcp, ok := c.(*net.TCPConn); ok && !d.OwnProbes {
		const unchanged = -1
		// A connection that it fails for has just been reset, which is noticed
		// soon enough.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: unchanged,
		})
	}
	return c, err
}

// closeUnless closes a connection if what was done with it has not returned, but panicked:
// networks may be those of other modules.
func closeUnless(returned *bool, c net.Conn) {
	if !*returned {
		_ = c.Close()
	}
}

// ignoreClosed drops the error of closing what was closed already.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

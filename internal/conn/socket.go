// Package conn makes of sockets, and of streams of HTTP/2 and HTTP/3, what a relay
// wants of the two sides of a tunnel: they can be half-closed, aborted and reset, and
// tell what their peer has not taken. It knows how net/http and quic-go serve
// streams, and by name what Caddy puts around a connection, but nothing of what is
// sent. The only lock is that of a [Stream].
package conn

import (
	"crypto/tls"
	"net"
	"reflect"
	"syscall"
	"time"
)

// Socket is a side of a tunnel that is a connection of its own. It implements
// [relay.Conn], and all that a relay asks of one beyond that.
type Socket struct {
	net.Conn
}

// Unwrap returns the connection inside of the one that Caddy gives to
// connections of listeners without TLS and with only one of h1 and h2c, which
// passes bytes on as they are once the handler runs, but hides CloseWrite.
// The type is not exported; its field is.
func Unwrap(conn net.Conn) net.Conn {
	v := reflect.ValueOf(conn)
	if v.Kind() != reflect.Pointer || v.Type().String() != "*caddyhttp.http2Conn" {
		return conn
	}
	field := v.Elem().FieldByName("Conn")
	if !field.IsValid() || !field.CanInterface() {
		return conn
	}
	if inner, ok := reflect.TypeAssert[net.Conn](field); ok {
		return inner
	}
	return conn
}

// CloseWrite half-closes: TLS sends close_notify, TCP a FIN.
func (s Socket) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	// Such as that of a PROXY protocol listener, which keeps nothing of what is
	// written to it.
	if tcp, ok := s.tcp(); ok {
		return tcp.CloseWrite()
	}
	// A kind of connection that cannot do it: the peer learns at the end.
	return nil
}

// Abort closes the socket itself: Close of a TLS connection waits up to five
// seconds for a peer that does not read.
func (s Socket) Abort() {
	_ = s.underneath().Close() // only its effect on pending calls is wanted
}

// Reset has Close and Abort tell the peer by a reset, and drop what it has not got.
func (s Socket) Reset() {
	if conn, ok := s.underneath().(interface{ SetLinger(sec int) error }); ok {
		resetOnClose(conn)
	}
}

// Bare lets the relay take the socket itself where there is nothing around it.
func (s Socket) Bare() syscall.Conn {
	return descriptor(s.Conn)
}

// Socket lets the relay wait for the socket where nothing but TLS could hold
// back what came from it.
func (s Socket) Socket() syscall.Conn {
	return descriptor(s.underneath())
}

func descriptor(conn net.Conn) syscall.Conn {
	switch conn := conn.(type) {
	case *net.TCPConn:
		return conn
	case *net.UnixConn:
		return conn
	}
	return nil
}

// GiveUpAfter implements relay.Impatient.
func (s Socket) GiveUpAfter(d time.Duration) {
	if conn, ok := s.tcp(); ok {
		setUserTimeout(conn, d)
	}
}

// tcp returns the TCP connection at the bottom, if there is one.
func (s Socket) tcp() (*net.TCPConn, bool) {
	switch c := s.underneath().(type) {
	case *net.TCPConn:
		return c, true
	case interface{ TCPConn() (*net.TCPConn, bool) }:
		return c.TCPConn() // such as that of a PROXY protocol listener
	}
	return nil, false
}

// Backlog implements relay.Backlogged.
func (s Socket) Backlog() int {
	if conn, ok := s.underneath().(syscall.Conn); ok {
		return backlog(conn)
	}
	return 0
}

// underneath returns the connection below TLS.
func (s Socket) underneath() net.Conn {
	if secured, ok := s.Conn.(*tls.Conn); ok {
		return secured.NetConn()
	}
	return s.Conn
}

package websocketproxy

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"reflect"
	"syscall"
	"time"
)

// socket is a side of a tunnel that is a connection of its own.
type socket struct {
	net.Conn
}

// CloseWrite half-closes: TLS sends close_notify, TCP a FIN.
func (s socket) CloseWrite() error {
	if c, ok := unwrap(s.Conn).(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	// Caddy's PROXY protocol listener keeps nothing of what is written to it.
	if tcp, ok := s.tcp(); ok {
		return tcp.CloseWrite()
	}
	// A kind of connection that cannot do it: the peer learns at the end.
	return nil
}

// Abort closes the socket itself: Close of a TLS connection waits up to five
// seconds for a peer that does not read.
func (s socket) Abort() {
	_ = s.underneath().Close() // only its effect on pending calls is wanted
}

// Reset has Close and Abort tell the peer by a reset, and drop what it has not got.
func (s socket) Reset() {
	if conn, ok := s.underneath().(interface{ SetLinger(sec int) error }); ok {
		resetOnClose(conn)
	}
}

// Bare lets the relay take the socket itself where there is nothing around it.
func (s socket) Bare() syscall.Conn {
	return descriptor(unwrap(s.Conn))
}

// Socket lets the relay wait for the socket where nothing but TLS could hold
// back what came from it.
func (s socket) Socket() syscall.Conn {
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

// giveUpAfter has TCP give the peer up if bytes sent to it go unacknowledged, or
// its window stays closed, for so long. Other kinds of connection, and systems
// that cannot, have their own ways.
func (s socket) giveUpAfter(d time.Duration) {
	if d > 0 {
		if conn, ok := s.tcp(); ok {
			setUserTimeout(conn, d)
		}
	}
}

// tcp returns the TCP connection at the bottom, if there is one.
func (s socket) tcp() (*net.TCPConn, bool) {
	switch c := s.underneath().(type) {
	case *net.TCPConn:
		return c, true
	case interface{ TCPConn() (*net.TCPConn, bool) }:
		return c.TCPConn() // that of Caddy's PROXY protocol listener
	}
	return nil, false
}

// Backlog implements relay.Backlogged.
func (s socket) Backlog() int {
	if conn, ok := s.underneath().(syscall.Conn); ok {
		return backlog(conn)
	}
	return 0
}

// underneath returns the connection below TLS.
func (s socket) underneath() net.Conn {
	if secured, ok := unwrap(s.Conn).(*tls.Conn); ok {
		return secured.NetConn()
	}
	return unwrap(s.Conn)
}

// unwrap returns the connection inside of the one that Caddy gives to
// connections of listeners without TLS and with only one of h1 and h2c, which
// passes bytes on as they are once the handler runs, but hides CloseWrite.
// The type is not exported; its field is.
func unwrap(conn net.Conn) net.Conn {
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

// errNoHijack means that some handler in front has replaced the response
// writer by one that hides the connection.
var errNoHijack = errors.New("the client's connection is hidden by a response writer without Unwrap or Hijack")

// innermost returns the server's own response writer. Hijacking there gives the
// bare connection; wrappers would give one that counts bytes without locks and
// hides CloseWrite.
func innermost(w http.ResponseWriter) (http.Hijacker, error) {
	if hijacker, ok := unwrapped(w).(http.Hijacker); ok {
		return hijacker, nil
	}
	return nil, errNoHijack
}

func unwrapped(w http.ResponseWriter) http.ResponseWriter {
	for {
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = inner.Unwrap()
	}
}

package conn

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// concealed is a connection of which only a net.Conn is known.
type concealed struct{ net.Conn }

// proxied is one that is like those of a PROXY protocol listener.
type proxied struct {
	net.Conn

	tcp *net.TCPConn
}

func (p proxied) TCPConn() (*net.TCPConn, bool) { return p.tcp, p.tcp != nil }

func TestConnectionsThatCannotBeHalfClosed(t *testing.T) {
	for _, c := range []net.Conn{concealed{}, proxied{}} {
		if err := (Socket{c}).CloseWrite(); err != nil {
			t.Errorf("%T: %v", c, err)
		}
	}
}

// Close of a TLS connection waits five seconds for a peer that does not read.
func TestAbortOfTLSDoesNotWait(t *testing.T) {
	certs := testbed.NewCerts(t)
	up := testbed.NewTLSUpstream(t, certs.ServerConfig(), testbed.BlackHole)
	c, err := (&tls.Dialer{Config: certs.ClientConfig()}).DialContext(t.Context(), "tcp", up.Addr)
	if err != nil {
		t.Fatal(err)
	}
	stuck := testbed.Go(t, func(testing.TB) {
		for block := make([]byte, 1<<20); ; {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	})
	began := time.Now()
	s := Socket{c}
	s.Abort()
	stuck()
	_ = s.Close()
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the end took %v", took)
	}
}

func TestOnlyCaddysOwnConnectionsAreOpened(t *testing.T) {
	inner := new(net.TCPConn)
	for _, conn := range []net.Conn{inner, concealed{inner}, &concealed{inner}, new(tls.Conn)} {
		if got := Unwrap(conn); got != conn {
			t.Errorf("%T becomes %T", conn, got)
		}
	}
}

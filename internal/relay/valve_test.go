package relay

import (
	"crypto/tls"
	"net"
	"sync"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// valve is a socket that can keep what is written to it, and let it go in
// pieces. Below TLS it stops a peer inside of a record.
type valve struct {
	net.Conn

	mu   sync.Mutex // guards what follows
	shut bool
	kept []byte
}

func (v *valve) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.shut {
		return v.Conn.Write(p)
	}
	v.kept = append(v.kept, p...)
	return len(p), nil
}

// valveOf is the one below a TLS peer.
func valveOf(e end) *valve {
	e.tb.Helper()
	if t, ok := e.Conn.(*tls.Conn); ok {
		if v, ok := t.NetConn().(*valve); ok {
			return v
		}
	}
	e.tb.Fatalf("%T has no valve", e.Conn)
	return nil
}

// keep is called before something is written that is to be kept.
func (v *valve) keep() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut = true
}

// amount is how many bytes are kept.
func (v *valve) amount() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.kept)
}

// release sends the first n of the bytes that are kept. When none is left,
// writes go through again.
func (v *valve) release(n int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err := v.Conn.Write(v.kept[:n])
	v.kept = v.kept[n:]
	v.shut = len(v.kept) > 0
	return err
}

// openTLSClient opens the connection of a client that has a valve.
func openTLSClient(tb testing.TB, certs *testbed.Certs) (peer, ours net.Conn) {
	tb.Helper()
	rawPeer, rawOurs := openTCP(tb)
	client := tls.Client(&valve{Conn: rawPeer}, clientConfig(certs))
	server := tls.Server(rawOurs, certs.ServerConfig())
	shakeHands(tb, client, server)
	return client, server
}

// openTLSUpstream opens the connection to an upstream that has a valve. Unlike
// at a client's, ours is the client of TLS, to which the server sends session
// tickets that nobody sees.
func openTLSUpstream(tb testing.TB, certs *testbed.Certs) (peer, ours net.Conn) {
	tb.Helper()
	rawPeer, rawOurs := openTCP(tb)
	server := tls.Server(&valve{Conn: rawPeer}, certs.ServerConfig())
	client := tls.Client(rawOurs, clientConfig(certs))
	shakeHands(tb, client, server)
	return server, client
}

func clientConfig(certs *testbed.Certs) *tls.Config {
	cfg := certs.ClientConfig()
	cfg.ServerName = "localhost"
	return cfg
}

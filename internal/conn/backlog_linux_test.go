package conn

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestBacklogIsWhatThePeerHasNotTaken(t *testing.T) {
	certs := testbed.NewCerts(t)
	dials := map[string]func() (net.Conn, error){
		"tcp": func() (net.Conn, error) {
			return net.Dial("tcp", testbed.NewUpstream(t, testbed.BlackHole).Addr)
		},
		"unix": func() (net.Conn, error) {
			return net.Dial("unix", testbed.NewUnixUpstream(t, testbed.BlackHole).Addr)
		},
		"tls": func() (net.Conn, error) {
			up := testbed.NewTLSUpstream(t, certs.ServerConfig(), testbed.BlackHole)
			return tls.Dial("tcp", up.Addr, certs.ClientConfig())
		},
	}
	for kind, dial := range dials {
		t.Run(kind, func(t *testing.T) {
			c, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			defer Socket{c}.Abort()
			for end := time.Now().Add(30 * time.Second); (Socket{c}).Backlog() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("something of the handshake is never acknowledged")
				}
			}
			_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			for block := make([]byte, 1<<20); err == nil; {
				_, err = c.Write(block)
			}
			if got := (Socket{c}).Backlog(); got <= 0 {
				t.Errorf("the backlog is %d bytes though the peer does not read", got)
			}
		})
	}
}

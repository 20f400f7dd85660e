package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

// TestMain starts the tests again with what makes Go's server offer extended
// CONNECT, which it looks for when it starts.
func TestMain(m *testing.M) {
	const setting = "http2xconnect=1"
	if debug := os.Getenv("GODEBUG"); !strings.Contains(debug, setting) {
		self, err := os.Executable()
		if err == nil {
			env := append(os.Environ(), "GODEBUG="+strings.TrimPrefix(debug+","+setting, ","))
			err = syscall.Exec(self, os.Args, env)
		}
		exitOn(err)
	}
	os.Exit(m.Run())
}

func TestSoManyTunnelsShareAConnection(t *testing.T) {
	backend := target{addr: startTestBackend(t)}
	for _, protocol := range []string{http2Name, http3Name} {
		for most, want := range map[int]int{1: 5, 2: 3, 100: 1} {
			over := startStreamServer(t, backend, carriage{protocol, most})
			for range 5 {
				c, err := over.dial(t.Context(), echoPath, smallBuffer)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.echo(newMessage(smallSize)); err != nil {
					t.Fatal(err)
				}
			}
			if got := len(over.carriers.all); got != want {
				t.Errorf("%s, %d a connection: got %d connections, want %d", protocol, most, got, want)
			}
		}
	}
}

func TestRefusedExtendedConnectIsReportedWithItsStatus(t *testing.T) {
	for _, protocol := range []string{http2Name, http3Name} {
		nobody := target{addr: unusedAddress(t)}
		_, err := startStreamServer(t, nobody, carriage{protocol, 2}).dial(t.Context(), echoPath, smallBuffer)
		if status, ok := errors.AsType[statusError](err); !ok || string(status) != "502 Bad Gateway" {
			t.Errorf("%s: got error %v, want one that names the status", protocol, err)
		}
	}
}

func TestPeersThatDoNotKnowAProtocolHaveNoValues(t *testing.T) {
	r := &runner{results: make(results)}
	r.rowFilter = regexp.MustCompile("memory")
	m := idleStreams(5).carried(carriage{http3Name, 1})
	peers := []peer{{name: "both", protocols: []string{http2Name, http3Name}}, {name: "one", protocols: []string{http2Name}}}
	if got := r.able(m, slices.Clone(peers)); len(got) != 1 || got[0].name != "both" {
		t.Errorf("got %v", got)
	}
	if got := r.results[m.rows[0].name]["one"]; len(got) != 1 || !math.IsNaN(got[0]) || len(r.results) != 1 {
		t.Errorf("got %v", r.results)
	}
	if got := r.able(echoMeasurement(), peers); len(got) != 2 {
		t.Errorf("over HTTP/1.1: got %v", got)
	}
}

// startStreamServer starts a server that passes WebSockets of a protocol on to
// backend, and returns it as the target of clients.
func startStreamServer(t *testing.T, backend target, way carriage) target {
	t.Helper()
	cert, config := testCertificate(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { pass(w, r, backend) })
	server := target{tls: cert.clientConfig()}
	if way.protocol == http3Name {
		server.addr = serveHTTP3(t, config, handler)
	} else {
		s := httptest.NewUnstartedServer(handler)
		s.EnableHTTP2, s.TLS = true, config
		s.StartTLS()
		t.Cleanup(s.Close)
		server.addr = s.Listener.Addr().String()
	}
	server.carriers = newCarriers(server, way)
	t.Cleanup(server.carriers.close)
	return server
}

func serveHTTP3(t *testing.T, config *tls.Config, handler http.Handler) string {
	t.Helper()
	socket, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http3.Server{TLSConfig: http3.ConfigureTLSConfig(config), Handler: handler}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(socket) // until it is closed
	}()
	t.Cleanup(func() {
		s.Close()
		socket.Close()
		<-served
	})
	return socket.LocalAddr().String()
}

// pass is a small WebSocket proxy.
func pass(w http.ResponseWriter, r *http.Request, backend target) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c, err := backend.dial(ctx, r.URL.RequestURI(), smallBuffer)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer c.conn.Close()
	defer context.AfterFunc(ctx, func() { c.conn.Close() })()
	flusher := http.NewResponseController(w)
	_ = flusher.Flush() // a failure ends what follows
	go func() { _, _ = io.Copy(c.conn, r.Body) }()
	for buf := make([]byte, 1<<16); err == nil; {
		var n int
		n, err = c.r.Read(buf)
		if _, failed := w.Write(buf[:n]); failed != nil {
			return
		}
		_ = flusher.Flush()
	}
}

// unusedAddress is one at which nobody listens.
func unusedAddress(t *testing.T) string {
	t.Helper()
	listener := testListener(t)
	defer listener.Close()
	return listener.Addr().String()
}

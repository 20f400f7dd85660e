package websocketproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// noListener has no connections.
type noListener struct{}

func (noListener) Accept(context.Context) (*quic.Conn, error) { return nil, io.EOF }
func (noListener) Addr() net.Addr                             { return &net.UDPAddr{Port: 443} }
func (noListener) Close() error                               { return nil }

func isServerClosed(server *http3.Server) bool {
	return errors.Is(server.ServeListener(noListener{}), http.ErrServerClosed)
}

func TestHTTP3ServersAreClosedInTheEnd(t *testing.T) {
	const period = 2 * time.Second
	for name, test := range map[string]struct {
		// note makes the server known; stopping is closed when it begins to stop.
		note func(live *registry, server *http3.Server, stopping chan struct{})
		exit func(live *registry, exits *atomic.Bool)
	}{
		"known before the exit": {
			note: func(live *registry, server *http3.Server, stopping chan struct{}) {
				live.noteServer(server, period, stopping)
			},
			exit: func(live *registry, _ *atomic.Bool) { <-live.shutDown() },
		},
		"known only when the process exits": {
			note: func(live *registry, server *http3.Server, stopping chan struct{}) {
				<-live.shutDown()
				live.noteServer(server, period, stopping)
			},
		},
		"of several handlers": {
			note: func(live *registry, server *http3.Server, stopping chan struct{}) {
				for _, p := range []time.Duration{1, period, period / 2} {
					live.noteServer(server, p, stopping)
				}
			},
			exit: func(_ *registry, exits *atomic.Bool) { exits.Store(true) }, // which the sweep sees
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				live, server, stopping := new(registry), new(http3.Server), make(chan struct{})
				var exits atomic.Bool
				live.exiting = exits.Load
				test.note(live, server, stopping)
				if test.exit != nil {
					test.exit(live, &exits)
				}
				// As in a shutdown_delay.
				time.Sleep(time.Hour)
				if isServerClosed(server) {
					t.Error("it was closed while it still served")
				}
				close(stopping)
				time.Sleep(period - 1)
				synctest.Wait()
				if isServerClosed(server) {
					t.Error("it was closed before the time of its requests was over")
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				if !isServerClosed(server) {
					t.Error("it was not closed")
				}
				live.forgetServer(weak.Make(server)) // here, as the sweep belongs to the bubble
			})
		})
	}
}

// A server does not live on because it is known, and nobody looks for the exit of
// the process for its sake any more.
func TestHTTP3ServerIsForgottenWithItsConfiguration(t *testing.T) {
	live := new(registry)
	sweeps := func() bool {
		live.mu.Lock()
		defer live.mu.Unlock()
		return live.stop != nil
	}
	server := new(http3.Server)
	live.noteServer(server, time.Second, nil)
	if !sweeps() {
		t.Error("nobody looks for the exit")
	}
	runtime.KeepAlive(server)
	eventually(t, "the server is forgotten", func() bool {
		runtime.GC()
		return live.http3.count() == 0
	})
	eventually(t, "nobody looks for the exit", func() bool { return !sweeps() })
}

// Also a request that is not for us has passed the handler.
func TestHandlerNotesItsHTTP3Server(t *testing.T) {
	p := newProxy(t, &Handler{Upstreams: upstreams("127.0.0.1:1")})
	live, server := withExit(t, p), new(http3.Server)
	for proto, want := range map[int]int{1: 0, 2: 0} {
		serveWithServer(t, p, proto, server)
		if got := live.http3.count(); got != want {
			t.Errorf("%d servers are known after a request over HTTP/%d, want %d", got, proto, want)
		}
	}
	for range 3 {
		serveWithServer(t, p, 3, server)
	}
	if got := live.http3.count(); got != 1 {
		t.Errorf("%d servers are known, want 1", got)
	}
	live.forgetServer(weak.Make(server))
}

func serveWithServer(t *testing.T, p *testProxy, proto int, server *http3.Server) {
	t.Helper()
	r := streamRequest(t, http.MethodGet, nil)
	r.ProtoMajor = proto
	r = r.WithContext(context.WithValue(r.Context(), http3.ServerContextKey, server))
	p.ServeHTTP(httptest.NewRecorder(), r)
}

package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
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
		note func(live *Registry, server *http3.Server, stopping chan struct{})
		exit func(live *Registry, exits *atomic.Bool)
	}{
		"known before the exit": {
			note: func(live *Registry, server *http3.Server, stopping chan struct{}) {
				live.NoteHTTP3Server(server, period, stopping)
			},
			exit: func(live *Registry, _ *atomic.Bool) { <-live.ShutDown() },
		},
		"known only when the process exits": {
			note: func(live *Registry, server *http3.Server, stopping chan struct{}) {
				<-live.ShutDown()
				live.NoteHTTP3Server(server, period, stopping)
			},
		},
		"of several handlers": {
			note: func(live *Registry, server *http3.Server, stopping chan struct{}) {
				for _, p := range []time.Duration{1, period, period / 2} {
					live.NoteHTTP3Server(server, p, stopping)
				}
			},
			exit: func(_ *Registry, exits *atomic.Bool) { exits.Store(true) }, // which the sweep sees
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				live, server, stopping := NewRegistry(nil), new(http3.Server), make(chan struct{})
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
	live := NewRegistry(nil)
	sweeps := func() bool {
		live.mu.Lock()
		defer live.mu.Unlock()
		return live.stop != nil
	}
	server := new(http3.Server)
	live.NoteHTTP3Server(server, time.Second, nil)
	if !sweeps() {
		t.Error("nobody looks for the exit")
	}
	runtime.KeepAlive(server)
	for end := time.Now().Add(30 * time.Second); live.HTTP3Servers() > 0 || sweeps(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d servers are known, and somebody looks for the exit: %t", live.HTTP3Servers(), sweeps())
		}
		runtime.GC()
	}
}

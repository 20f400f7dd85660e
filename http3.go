package websocketproxy

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// servedHTTP3 is what a handler knows of the HTTP/3 server that it belongs to.
type servedHTTP3 struct {
	known atomic.Bool
	// stopping is closed when that server has begun to shut down: at the end of a
	// shutdown_delay, or of its configuration. It is nil where nothing tells.
	stopping chan struct{}
}

func (h *Handler) provisionHTTP3(ctx caddy.Context) error {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		stopping := make(chan struct{})
		h.http3.stopping = stopping
		server.RegisterOnShutdown(sync.OnceFunc(func() { close(stopping) }))
	}
	return nil
}

// noteServer makes the server of an HTTP/3 request known to those who end the
// process. A handler has only one, so this is done once.
func (h *Handler) noteServer(ctx context.Context) {
	if h.http3.known.Load() || h.http3.known.Swap(true) {
		return
	}
	if server, ok := ctx.Value(http3.ServerContextKey).(*http3.Server); ok {
		h.pool.live.noteServer(server, h.tunnelPolicy.shutdown, h.http3.stopping)
	}
}

// http3Servers are the HTTP/3 servers of which a request has come to a handler,
// those of older configurations too, as long as they have a use.
type http3Servers struct {
	mu      sync.Mutex // guards what follows
	stops   map[weak.Pointer[http3.Server]]*http3Stop
	closing bool // the process exits
}

// http3Stop is how a server is stopped.
type http3Stop struct {
	period   time.Duration
	stopping <-chan struct{}
}

// noteServer has a server closed some time after the process has begun to exit:
// until then its Shutdown waits for connections that their clients leave open, and
// Caddy for that, without a limit. The longest period counts.
func (r *registry) noteServer(server *http3.Server, period time.Duration, stopping <-chan struct{}) {
	s, key := &r.http3, weak.Make(server)
	s.mu.Lock()
	stop := s.stops[key]
	if stop == nil {
		stop = &http3Stop{stopping: stopping}
		if s.stops == nil {
			s.stops = make(map[weak.Pointer[http3.Server]]*http3Stop)
		}
		s.stops[key] = stop
		runtime.AddCleanup(server, r.forgetServer, key)
		if s.closing {
			go s.closeLater(key, stop)
		}
	}
	stop.period = max(stop.period, period)
	s.mu.Unlock()
	r.adjustSweep()
}

func (r *registry) forgetServer(key weak.Pointer[http3.Server]) {
	r.http3.mu.Lock()
	delete(r.http3.stops, key)
	r.http3.mu.Unlock()
	r.adjustSweep()
}

func (s *http3Servers) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.stops)
}

// closeAll closes all servers when their time is over, and does not wait for that.
func (s *http3Servers) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for key, stop := range s.stops {
		go s.closeLater(key, stop)
	}
}

func (s *http3Servers) closeLater(key weak.Pointer[http3.Server], stop *http3Stop) {
	if stop.stopping != nil {
		<-stop.stopping
	}
	s.mu.Lock()
	period := stop.period
	s.mu.Unlock()
	time.Sleep(period)
	if server := key.Value(); server != nil {
		_ = server.Close() // whoever has called Shutdown reports
	}
}

package tunnel

import (
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/quic-go/quic-go/http3"
)

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

// NoteHTTP3Server has a server closed some time after the process has begun to exit:
// until then its Shutdown waits for connections that their clients leave open, and
// Caddy for that, without a limit. The longest period counts.
func (r *Registry) NoteHTTP3Server(server *http3.Server, period time.Duration, stopping <-chan struct{}) {
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

func (r *Registry) forgetServer(key weak.Pointer[http3.Server]) {
	r.http3.mu.Lock()
	delete(r.http3.stops, key)
	r.http3.mu.Unlock()
	r.adjustSweep()
}

// HTTP3Servers counts the HTTP/3 servers that are known.
func (r *Registry) HTTP3Servers() int {
	return r.http3.count()
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

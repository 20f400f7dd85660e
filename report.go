package websocketproxy

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// reporter writes the log lines of a handler's tunnels.
type reporter struct {
	log *zap.Logger // guarded by the set's mu; nil when no longer loaded
}

// reporterSet knows the reporters whose configuration is loaded, oldest first.
type reporterSet struct {
	mu     sync.Mutex
	loaded []*reporter
}

var reporters reporterSet

func (s *reporterSet) add(log *zap.Logger) *reporter {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &reporter{log: log}
	s.loaded = append(s.loaded, r)
	return r
}

func (s *reporterSet) remove(r *reporter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.loaded {
		if other == r {
			s.loaded = slices.Delete(s.loaded, i, i+1)
			r.log = nil // tunnels that live on must not keep the configuration
			return
		}
	}
}

// logger returns where r's tunnels are logged now: as their own configuration
// says while it is loaded, then as the newest one does, whose log outputs are
// open.
func (s *reporterSet) logger(r *reporter) *zap.Logger {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.log != nil {
		return r.log
	}
	return s.newestLocked()
}

// newest returns where is logged what belongs to no handler.
func (s *reporterSet) newest() *zap.Logger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newestLocked()
}

func (s *reporterSet) newestLocked() *zap.Logger {
	if n := len(s.loaded); n > 0 {
		return s.loaded[n-1].log
	}
	return caddy.Log().Named("http.handlers.websocket_proxy")
}

// tunnelClosed writes the line of a tunnel that has ended.
func (r *reporter) tunnelClosed(t *tunnel) {
	level := zapcore.InfoLevel
	if t.closedBy() == peerUpstream && t.why != upstreamClosed {
		level = zapcore.WarnLevel // something an operator may want to look at
	}
	c := reporters.logger(r).Check(level, "tunnel closed")
	if c == nil {
		return
	}
	fields := []zap.Field{
		zap.String("tunnel", t.id),
		zap.String("client_ip", t.clientIP),
		zap.String("upstream", t.upstreamHost.address),
		zap.String("reason", string(t.why)),
		zap.String("closed_by", string(t.closedBy())),
		zap.Duration("duration", time.Since(t.opened)),
		zap.Uint64("bytes_in", t.passed[relay.ClientToUpstream]),
		zap.Uint64("bytes_out", t.passed[relay.UpstreamToClient]),
		zap.Uint64("messages_in", t.scanners[relay.ClientToUpstream].Messages()),
		zap.Uint64("messages_out", t.scanners[relay.UpstreamToClient].Messages()),
	}
	if t.evictedBy != "" {
		fields = append(fields, zap.String("evicted_by", printable.Text(t.evictedBy)))
	}
	if t.closeCode != 0 {
		fields = append(fields, zap.Uint16("close_code", t.closeCode), zap.String("close_from", string(t.closeFrom)))
	}
	c.Write(fields...)
}

// failure is the field of an error in the log. What is wrong may be told in the
// words of a peer.
func failure(err error) zap.Field {
	return zap.String("error", printable.Text(err.Error()))
}

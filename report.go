package websocketproxy

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/logline"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
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

// tunnelClosed counts a tunnel that has ended, and writes its line.
func (r *reporter) tunnelClosed(o tunnel.Outcome) {
	if counts, ok := o.Meter.(*metrics.Pair); ok {
		counts.Closed(o, time.Since(o.Opened))
	}
	process.board.TunnelEnded(&o)
	o.Traced()
	level := zapcore.InfoLevel
	if o.ClosedBy == tunnel.Upstream && o.Reason != tunnel.UpstreamClosed {
		level = zapcore.WarnLevel // something an operator may want to look at
	}
	if c := process.logs.logger(r).Check(level, "tunnel closed"); c != nil {
		c.Write(logline.Closed(&o)...)
	}
}

// failure is the field of an error in the log. What is wrong may be told in the
// words of a peer.
func failure(err error) zap.Field {
	return zap.String("error", printable.Text(err.Error()))
}

// maxListed bounds how many upstreams a line names.
const maxListed = 20

// logChanges writes a line for the pools with a name in which a reload has changed
// something.
func logChanges(log *zap.Logger, changes []evict.Change) {
	for _, c := range changes {
		process.events.Emit(events.UpstreamsChanged, events.Data{
			"by": "reload", "handler": printable.Text(c.Name), "added": shown(c.Added), "removed": shown(c.Removed),
		})
		var fields []zap.Field
		if c.Name != "" {
			fields = append(fields, zap.String("handler", printable.Text(c.Name)))
		}
		log.Info("upstreams changed by a reload",
			append(fields, zap.Strings("added", listed(c.Added)), zap.Strings("removed", listed(c.Removed)))...)
	}
}

// listed is a list as it may be shown: the first ones, and how many more there
// are.
func listed(all []string) []string {
	shown := make([]string, 0, min(len(all), maxListed+1))
	for _, s := range all[:min(len(all), maxListed)] {
		shown = append(shown, printable.Text(s))
	}
	if more := len(all) - maxListed; more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return shown
}

// resetsAtOnce writes the line about an upstream whose tunnels are no use.
func (r *reporter) resetsAtOnce(address string) {
	tellDoubt(process.logs.logger(r), address, "it resets tunnels right after it has opened them")
}

// tellDoubt writes the line about an upstream that has become doubtful.
func tellDoubt(log *zap.Logger, address, why string) {
	log.Warn("upstream is doubtful; it gets newcomers only if no other one of its kind can",
		zap.String("upstream", address), zap.String("why", why))
	process.events.Emit(events.UpstreamDoubtful, events.Data{"address": printable.Text(address), "why": why})
}

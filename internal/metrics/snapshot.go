package metrics

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// Snapshot is what has been counted so far. Rates come of two of them.
type Snapshot struct {
	At        time.Time
	Handlers  []HandlerSnapshot  // by name
	Pairs     []PairSnapshot     // by handler and upstream
	Upstreams []UpstreamSnapshot // by name
	// LastSync is when the storage of operators' states was last asked with success; zero:
	// never. SyncsFailed is how often it was asked without.
	LastSync    time.Time
	SyncsFailed uint64
}

// HandlerSnapshot is of the handlers of a name. Words that have counted nothing are left
// out.
type HandlerSnapshot struct {
	Handler       string
	Open          uint64 // tunnels
	Opened        uint64
	Closed        map[string]uint64 // by reason
	UpstreamCodes map[string]uint64 // tunnels whose first Close was an upstream's, by its status
	Refused       map[string]uint64 // by cause
	InProgress    int64
	Queued        int64
	QueueLimit    int64
	Retries       uint64
	Upstreams     map[string]int64     // by status
	Duration      Histogram            // of tunnels that have ended
	Handshakes    map[string]Histogram // by outcome
	Stalled       map[string]int64     // by peer
	BufferedBytes map[string]int64     // by peer
	Silent        map[string]int64     // by for how long
	PingTimeouts  map[string]uint64    // by peer
	PingRTT       map[string]Histogram // by peer
}

// PairSnapshot is of what happens between handlers of a name and an upstream.
type PairSnapshot struct {
	Handler, Upstream       string
	Open, Opened            uint64
	ClosedBy                map[string]uint64
	Failed                  map[string]uint64 // by cause
	MessagesIn, MessagesOut uint64
	BytesIn, BytesOut       uint64
	Limit                   int64 // zero: none
}

// UpstreamSnapshot is of what happens at an upstream.
type UpstreamSnapshot struct {
	Upstream   string
	Handshakes Histogram // all attempts
}

// Snapshot copies all. It takes no lock.
func (m *Metrics) Snapshot() Snapshot {
	s := Snapshot{At: m.clock(), SyncsFailed: m.syncFails.Load()}
	if last := m.lastSync.Load(); last != 0 {
		s.LastSync = time.Unix(0, last)
	}
	m.countRemoved()
	open := make(map[*Handler]uint64)
	for _, p := range m.pairs.all {
		if !p.isOver(s.At) {
			one := p.snapshot()
			open[p.handler] += one.Open
			s.Pairs = append(s.Pairs, one)
		}
	}
	for _, h := range m.handlers.all {
		one := h.snapshot(s.At)
		one.Open = open[h]
		s.Handlers = append(s.Handlers, one)
	}
	for _, u := range m.upstreams.all {
		if !u.isOver(s.At) {
			s.Upstreams = append(s.Upstreams, UpstreamSnapshot{u.name, u.attempts.snapshot()})
		}
	}
	slices.SortFunc(s.Handlers, func(a, b HandlerSnapshot) int { return strings.Compare(a.Handler, b.Handler) })
	slices.SortFunc(s.Upstreams, func(a, b UpstreamSnapshot) int { return strings.Compare(a.Upstream, b.Upstream) })
	slices.SortFunc(s.Pairs, func(a, b PairSnapshot) int {
		return slices.Compare([]string{a.Handler, a.Upstream}, []string{b.Handler, b.Upstream})
	})
	return s
}

func (h *Handler) snapshot(now time.Time) HandlerSnapshot {
	s := HandlerSnapshot{
		Handler:       h.name,
		Closed:        copied(h.closed),
		UpstreamCodes: make(map[string]uint64),
		Refused:       make(map[string]uint64),
		InProgress:    h.InProgress.Load(),
		Queued:        h.Queue.Load(),
		QueueLimit:    h.queueLimit.Load(),
		Retries:       h.retries.Load(),
		Upstreams:     make(map[string]int64),
		Duration:      h.duration.snapshot(),
		Handshakes:    make(map[string]Histogram),
		Stalled:       make(map[string]int64),
		BufferedBytes: make(map[string]int64),
		Silent:        make(map[string]int64),
		PingTimeouts:  make(map[string]uint64),
		PingRTT:       make(map[string]Histogram),
	}
	for n := range maps.Values(h.opened) {
		s.Opened += n.Load()
	}
	for with, n := range h.refused {
		if n := n.Load(); n > 0 {
			s.Refused[with.cause] += n
		}
	}
	for with, n := range h.codes {
		if n := n.Load(); n > 0 && with.from == tunnel.Upstream {
			s.UpstreamCodes[with.code] = n
		}
	}
	for status := range statusCount {
		s.Upstreams[status.String()] = h.statuses[status].Load()
	}
	for outcome, d := range h.handshake {
		s.Handshakes[outcome] = d.snapshot()
	}
	for i, p := range peers {
		peer := string(p)
		s.Stalled[peer], s.BufferedBytes[peer] = h.stalled[i].Load(), h.buffered[i].Load()
		s.PingTimeouts[peer], s.PingRTT[peer] = h.pingTimeouts[i].Load(), h.rtt[i].snapshot()
	}
	for _, over := range silentOver {
		s.Silent[over.label] = h.silence.over(now, over.time)
	}
	return s
}

func (p *Pair) snapshot() PairSnapshot {
	return PairSnapshot{
		Handler: p.handler.name, Upstream: p.site.name,
		Open: p.open(), Opened: p.opened.Load(), ClosedBy: copied(p.closedBy), Failed: copied(p.failed),
		MessagesIn: p.messages[0].Load(), MessagesOut: p.messages[1].Load(),
		BytesIn: p.bytes[0].Load(), BytesOut: p.bytes[1].Load(),
		Limit: p.limit.Load(),
	}
}

// copied is what has counted something.
func copied[K ~string](w words[K]) map[string]uint64 {
	all := make(map[string]uint64)
	for key, n := range w {
		if n := n.Load(); n > 0 {
			all[string(key)] = n
		}
	}
	return all
}

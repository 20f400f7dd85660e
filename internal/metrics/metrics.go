// Package metrics counts what happens to handshakes and tunnels and shows it to
// Prometheus. It knows client_golang, what a tunnel tells at its end and what holds for an
// upstream, and neither Caddy nor configurations: these are names and lists of upstreams.
//
// Counts are atomic. The lock of [Metrics] is for what there are counts of: handlers,
// upstreams, configurations. It is a leaf, held for a look into a map; a handler's silence
// has another one. A scrape takes neither.
package metrics

import (
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxPairs is of how many pairs of a handler and an upstream there are series. The
	// rest has the upstream otherUpstream.
	maxPairs      = 2000
	otherUpstream = "_other"
	// keptFor is how long there are series of an upstream after its last tunnel and
	// its last configuration.
	keptFor = 15 * time.Minute
	// DefaultHandler stands for handlers without a name.
	DefaultHandler = "default"
)

// Words are those of the labels, and of others.
type Words struct {
	// Causes of refusals, by the classes of statuses that clients get with each.
	Causes map[string][]string
	// Attempts are the causes for which a handshake at an upstream fails.
	Attempts []string
}

// Metrics are those of a process. They outlive configurations.
type Metrics struct {
	words Words
	clock func() time.Time
	// overflow is told once that there are more pairs than series.
	overflow func()
	told     sync.Once

	handlers  table[string, *Handler]
	pairs     table[pairKey, *Pair]
	upstreams table[string, *site]

	process   []*series
	lastSync  atomic.Int64 // in nanoseconds since 1970; zero: never
	syncFails atomic.Uint64

	mu        sync.Mutex // guards what follows, and what says so
	configs   []*Config  // in force
	pairCount int
	full      bool // there are no series for some of them
	pruned    time.Time
	round     uint64
	refresher refresher
}

// pairKey is of labels.
type pairKey struct{ handler, upstream string }

// New makes metrics that have seen nothing. clock tells the time, and lostEvents how many
// events nobody was told, as too many waited; overflow is told once when there are more
// upstreams than series.
func New(words Words, clock func() time.Time, lostEvents func() uint64, overflow func()) *Metrics {
	m := &Metrics{words: words, clock: clock, overflow: overflow}
	m.process = []*series{
		counterOf(descSyncErrors, &m.syncFails),
		counterBy(descEventsDropped, lostEvents),
		gaugeOf(descBuildInfo, func() float64 { return 1 }, version()),
		gaugeOf(descLastSync, func() float64 { return seconds(time.Duration(m.lastSync.Load())) }).
			onlyIf(func() bool { return m.lastSync.Load() != 0 }),
	}
	return m
}

// version is that of this module, as it was built.
func version() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, dep := range info.Deps {
		if strings.HasSuffix(dep.Path, "/caddy-websocket-proxy") {
			return dep.Version
		}
	}
	return info.Main.Version
}

// Handler returns the counts of the handlers with a name, which begin at zero.
func (m *Metrics) Handler(name string) *Handler {
	if name == "" {
		name = DefaultHandler
	}
	name = Label(name)
	if h, ok := m.handlers.load(name); ok {
		return h
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.handlers.load(name)
	if !ok {
		h = newHandler(m, name)
		m.handlers.store(name, h)
	}
	return h
}

// Synced counts a look at the storage of operators' states.
func (m *Metrics) Synced(err error) {
	if err != nil {
		m.syncFails.Add(1)
		return
	}
	m.lastSync.Store(m.clock().UnixNano())
}

// Register has a registry show the metrics. That they are there already is no error.
func (m *Metrics) Register(r prometheus.Registerer) error {
	err := r.Register(m)
	if _, again := err.(prometheus.AlreadyRegisteredError); again { //nolint:errorlint // it is never wrapped
		return nil
	}
	return err
}

// pairLocked returns the counts of a handler's tunnels to an upstream.
func (m *Metrics) pairLocked(h *Handler, upstream string) *Pair {
	now, key := m.clock(), pairKey{h.name, Label(upstream)}
	old, there := m.pairs.load(key)
	if there && !old.isOver(now) {
		return old
	}
	if now.Sub(m.pruned) >= time.Minute {
		m.pruneLocked(now)
		_, there = m.pairs.load(key)
	}
	if !there && m.pairCount >= maxPairs && key.upstream != otherUpstream {
		m.full = true
		return m.pairLocked(h, otherUpstream)
	}
	u, ok := m.upstreams.load(key.upstream)
	if !ok || u.isOver(now) {
		u = newSite(key.upstream)
		m.upstreams.store(key.upstream, u)
	}
	p := newPair(h, u)
	m.pairs.store(key, p)
	if !there {
		m.pairCount++
	}
	return p
}

// unlock ends the use of what the lock guards, and tells if that has been too much.
func (m *Metrics) unlock() {
	full := m.full
	m.mu.Unlock()
	if full {
		m.told.Do(m.overflow)
	}
}

// pruneLocked forgets what there are no series of any more.
func (m *Metrics) pruneLocked(now time.Time) {
	m.pruned = now
	for key, p := range m.pairs.all {
		if p.isOver(now) {
			m.pairs.remove(key)
			m.pairCount--
		}
	}
	for label, u := range m.upstreams.all {
		if u.isOver(now) {
			m.upstreams.remove(label)
		}
	}
}

// Package dashboard is the page where operators see what happens: a handler of Caddy, the
// files of the page, and what the process keeps for it. It knows what is shown, in which
// words and in which order, and who may change something; by [Backend] it knows where
// tunnels, upstreams and counts are. It must not know the handler that proxies.
//
// The locks of the board and of [Recent] are leaves: nothing is called under them, but that
// of the latter may be taken under the former.
package dashboard

import (
	"iter"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// Backend is where tunnels, upstreams and counts are. All of it may be called at any time,
// by several goroutines.
type Backend interface {
	admin.Backend
	// Pools are those of the configurations that are loaded; of a handler's name there
	// may be several.
	Pools() []Pool
	// Numbers are what has been counted since the process started.
	Numbers() Numbers
	// Snapshots are what is known of the open tunnels that wanted accepts.
	Snapshots(wanted func(*tunnel.About) bool) iter.Seq[tunnel.Snapshot]
}

// Pool is the upstreams of a handler, as far as they are known.
type Pool struct {
	Handler string // its name
	Members []Member
	Queued  int // handshakes that wait
}

// Member is an upstream of a pool.
type Member struct {
	Upstream string  // its address
	Weight   float64 // in force: what is configured, or what agents and reports make of it; -1: not known
	Most     int     // tunnels; zero: no limit
}

// Board is what a process has for all pages.
type Board struct {
	Recent

	backend Backend
	files   func() descriptors

	mu      sync.Mutex // guards what follows
	users   int        // handlers that are in force
	stop    chan struct{}
	sampled chan struct{} // closed when the sampler has ended
	history history
}

// New makes the board of a process. It keeps nothing before a page is in force.
func New(b Backend) *Board {
	board := &Board{backend: b, files: new(fileCount).look}
	board.number = uint64(time.Now().UnixMicro())
	return board
}

// use begins to keep what pages show, unless that is done already.
func (b *Board) use() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users++; b.users > 1 {
		return
	}
	b.history = newHistory()
	b.stop, b.sampled = make(chan struct{}), make(chan struct{})
	b.begin()
	go b.sample(b.stop, b.sampled)
}

// release takes use back. When the last one has, the sampler has ended.
func (b *Board) release() {
	b.mu.Lock()
	b.users--
	last, sampled := b.users == 0, b.sampled
	if last {
		close(b.stop)
		b.history = history{}
		b.end() // before somebody else uses it
	}
	b.mu.Unlock()
	if last {
		<-sampled
	}
}

// sample takes samples until stop is closed.
func (b *Board) sample(stop <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	for {
		b.take(stop)
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
	}
}

// take takes a sample, for as long as that is wanted.
func (b *Board) take(stop <-chan struct{}) {
	f := b.gather(time.Now())
	f.oldest = b.oldestOf(f.upstreams)
	addresses := make(map[string]bool, len(f.upstreams))
	for _, u := range f.upstreams {
		addresses[u.Address] = true
	}
	b.keepChecks(addresses)
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-stop: // another one may have begun
	default:
		b.history.add(f)
	}
}

// oldestOf returns when the oldest tunnel was opened of each upstream that is to become
// empty.
func (b *Board) oldestOf(all []admin.Upstream) map[string]time.Time {
	oldest := make(map[string]time.Time)
	for i := range all {
		if u := &all[i]; isGoing(u) && u.Tunnels > 0 {
			oldest[u.Address] = time.Time{}
		}
	}
	if len(oldest) == 0 {
		return oldest
	}
	wanted := func(t *tunnel.About) bool { _, going := oldest[t.Upstream]; return going }
	for s := range b.backend.Snapshots(wanted) {
		if known := oldest[s.Upstream]; known.IsZero() || s.Opened.Before(known) {
			oldest[s.Upstream] = s.Opened
		}
	}
	return oldest
}

// gather asks for everything that is shown.
func (b *Board) gather(now time.Time) *facts {
	return &facts{at: now, upstreams: b.backend.Upstreams(), pools: b.backend.Pools(), numbers: b.backend.Numbers(), files: b.files()}
}

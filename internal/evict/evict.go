// Package evict ends tunnels that should be at another upstream: those whose upstream
// no configuration has any more, an operator empties, or a check finds unhealthy, and
// for rebalancing those of which an upstream has more than its part. For that it knows
// which pool follows which over reloads. It knows neither Caddy nor log lines, nor how
// any of this is found out.
//
// It has one lock, that of an [Evictor]: for what is loaded, and how far rebalancing
// has come. Nothing of others is called under it.
package evict

import (
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// DefaultPeriod is the time over which the tunnels of an upstream are ended if
// nothing else is said.
const DefaultPeriod = 30 * time.Second

// Evictor ends tunnels that should be at another upstream. What it is told is a hint:
// it goes by what is so when it is a tunnel's turn.
type Evictor struct {
	table *upstream.Table
	live  *tunnel.Registry

	mu sync.Mutex
	// loaded are the configurations, oldest first. In a reload the new one comes
	// before the old one goes; one that fails to load goes again, with the old one
	// still there.
	loaded []*generation
}

// New returns what ends tunnels of a registry, whose owners are all of them a [Lease].
func New(table *upstream.Table, live *tunnel.Registry) *Evictor {
	return &Evictor{table: table, live: live}
}

// Orphans begins to end the tunnels whose upstream no loaded configuration
// has any more, each within the time that its own configuration gave. Those
// whose upstream comes back before it is their turn stay.
func (e *Evictor) Orphans() {
	e.all(func(*tunnel.Tunnel) bool { return true }, func(l *Lease) (tunnel.Ending, bool) {
		if !l.IsOrphan() {
			return tunnel.Ending{}, false
		}
		return l.evicted(l.removedBy()), true
	})
}

// Unhealthy begins to end the tunnels of an upstream that is down, those
// that are to end because of that. It goes on as long as that is so.
func (e *Evictor) Unhealthy(address string) {
	e.all(isAt(address), func(l *Lease) (tunnel.Ending, bool) { return l.moved(tunnel.Unhealthy), l.IsUnhealthy() })
}

// From begins to end the tunnels of an upstream that an operator wants
// emptied, and goes on as long as that is so. Without a period, the time is that
// of their own configuration.
func (e *Evictor) From(address string, period time.Duration) {
	// Whoever sets the state again may want another pace.
	since := e.table.StateOf(address).At
	due := func(l *Lease) (tunnel.Ending, bool) {
		s := e.table.StateOf(address)
		return l.evicted(l.operator()), s.State == upstream.Evict && s.At.Equal(since)
	}
	if period <= 0 {
		e.all(isAt(address), due)
		return
	}
	e.live.EndOneByOne(e.live.Collect(isAt(address)), period, dueOf(due))
}

func isAt(address string) func(*tunnel.Tunnel) bool {
	return func(t *tunnel.Tunnel) bool { return t.Upstream == address }
}

func dueOf(due func(*Lease) (tunnel.Ending, bool)) func(*tunnel.Tunnel) (tunnel.Ending, bool) {
	return func(t *tunnel.Tunnel) (tunnel.Ending, bool) { return due(LeaseOf(t)) }
}

// all begins to end the tunnels among some for which that is due, each within
// the time that its own configuration gave, as long as that is so.
func (e *Evictor) all(among func(*tunnel.Tunnel) bool, due func(*Lease) (tunnel.Ending, bool)) {
	byPeriod := make(map[time.Duration][]*tunnel.Tunnel)
	for _, t := range e.live.Collect(among) {
		l := LeaseOf(t)
		if _, is := due(l); !is {
			continue
		}
		period := l.Policy.Period
		if period == 0 { // which is about upstreams that are gone
			period = DefaultPeriod
		}
		byPeriod[period] = append(byPeriod[period], t)
	}
	for period, tunnels := range byPeriod {
		e.live.EndOneByOne(tunnels, period, dueOf(due))
	}
}

package websocketproxy

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/cluster"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dashboard"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/discovery"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// process is what outlives configurations. It is the only variable of this package
// whose value changes.
var process = newProcessWide()

func init() {
	// Comes after everything else, also where the configuration that was loaded
	// last has no such handler.
	caddy.OnExit(func(context.Context) { <-process.live.ShutDown() })
}

// processWide is what a process has once, whatever configurations come and go.
type processWide struct {
	live    *tunnel.Registry
	table   *upstream.Table   // what is known of the addresses of upstreams
	clients *upstream.Clients // where tunnels per client are limited
	known   *sticky.Known     // where clients belong
	evictor *evict.Evictor    // also knows what is loaded
	// checkers probe, sources are asked in the background, and operators have
	// given upstreams states.
	checkers  *health.Checkers
	sources   *discovery.Set
	operators *cluster.States
	logs      reporterSet
	metrics   *metrics.Metrics
	board     *dashboard.Board
	events    events.Process
	// toldShortage is when a line has told of a shortage, in nanoseconds since 1970.
	toldShortage atomic.Int64
}

func newProcessWide() *processWide {
	p := &processWide{
		live:     tunnel.NewRegistry(caddy.Exiting),
		clients:  upstream.NewClients(),
		known:    sticky.NewKnown(),
		checkers: health.NewCheckers(),
	}
	p.live.CountSleep(expiry.NewSleepWatch(p.slept).Slept)
	p.metrics = p.newMetrics()
	p.table = upstream.NewTable(p.changed)
	p.live.OnMove(p.events.Moved)
	p.evictor = evict.New(p.table, p.live)
	p.sources = discovery.NewSet(p.table, p.found)
	p.operators = cluster.New(operatorTable{p}, stateLog{}, firstTimeout)
	p.board = dashboard.New(p.shown())
	return p
}

// slept tells that the machine has slept.
func (p *processWide) slept(d time.Duration) {
	p.logs.newest().Info("the machine has slept, which counts for tunnels that expire", zap.Duration("slept", d))
}

// changed does what follows from a change at an address.
func (p *processWide) changed(c upstream.Change) {
	switch c.Kind {
	case upstream.AddressDown:
		p.evictor.Unhealthy(c.Address)
	case upstream.AddressTried:
		p.logs.newest().Info("upstream is tried again", zap.String("upstream", c.Address))
		p.evictor.Recovered(c.Endpoints)
	case upstream.AddressTrusted:
		p.logs.newest().Info("upstream is not doubtful any more", zap.String("upstream", c.Address))
		p.events.Emit(events.UpstreamTrusted, events.Data{"address": printable.Text(c.Address)})
		p.evictor.Recovered(c.Endpoints)
	case upstream.AddressUp:
		p.evictor.Recovered(c.Endpoints)
	case upstream.AddressEmpty:
		p.emptied(c.Address)
	}
}

// emptied tells that an upstream that gets no tunnels any more has none.
func (p *processWide) emptied(address string) {
	state := cmp.Or(p.table.StateOf(address).State, upstream.Removed)
	p.events.Emit(events.UpstreamEmpty, events.Data{"address": printable.Text(address), "state": state})
}

// found does what follows from what sources have found.
func (p *processWide) found(o discovery.Outcome) {
	if o.Orphans {
		p.evictor.Orphans()
	}
	p.evictor.Discovered(o.Joined, o.Had)
}

// operatorTable makes the states of operators count.
type operatorTable struct{ *processWide }

// SetStates implements cluster.Table.
func (p operatorTable) SetStates(number uint64, states map[string]upstream.State) (follow func()) {
	evict, ready := p.table.SetStates(number, states)
	return func() {
		for _, address := range evict {
			p.evictor.From(address, states[address].EvictPeriod())
		}
		if len(ready) > 0 {
			p.evictor.BecameReady(ready)
		}
	}
}

// Uses implements cluster.Table.
func (p operatorTable) Uses(address string) bool { return p.table.Uses(address) }

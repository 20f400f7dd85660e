package websocketproxy

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/cluster"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dashboard"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/discovery"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
)

func init() {
	caddy.RegisterModule(new(statesApp))
}

const statesAppID = "websocket_proxy"

// statesApp keeps the states that operators give upstreams in Caddy's storage,
// as long as a configuration runs that has a `websocket_proxy` handler, which
// loads it, and tells the handlers when that is. There is nothing to configure.
//
// It exists because Caddy starts and stops apps, and only those: handlers are
// provisioned for a mere validation too, which must not touch a storage, nor
// look for upstreams.
type statesApp struct {
	storage cluster.Storage
	log     *zap.Logger
	sync    *cluster.Sync
	events  *events.Outlet
	// handlers are those of the configuration.
	handlers []*Handler
	// dashboards are those of the configuration.
	dashboards []*dashboard.Handler
	// asked are the names of handlers that reverse_proxy asks for its upstreams.
	asked []string
}

// CaddyModule returns the Caddy module information.
func (*statesApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  statesAppID,
		New: func() caddy.Module { return new(statesApp) },
	}
}

// Provision notes where the states are kept, and leaves that alone.
func (a *statesApp) Provision(ctx caddy.Context) (err error) {
	a.storage, a.log = ctx.Storage(), ctx.Logger()
	a.events, err = process.events.Join(ctx)
	return err
}

// Start begins to look at the storage. When the process starts, it waits a
// moment for what is there.
func (a *statesApp) Start() error {
	a.sync = process.operators.Attach(cluster.Config{Storage: a.storage, Instance: thisInstance, Observer: stateLog{a.log}})
	process.operators.AwaitFirst(context.Background())
	for _, h := range a.handlers {
		h.sources.Start()
		process.evictor.Start(h.loaded)
		h.startMetrics()
		h.startChecks()
	}
	a.warnOfMissing()
	for _, d := range a.dashboards {
		d.Start()
	}
	return nil
}

// AddAsked implements guest.App.
func (a *statesApp) AddAsked(pool string) { a.asked = append(a.asked, pool) }

// warnOfMissing tells of names that reverse_proxy asks for and no handler has.
func (a *statesApp) warnOfMissing() {
	for _, name := range slices.Compact(slices.Sorted(slices.Values(a.asked))) {
		if !slices.ContainsFunc(a.handlers, func(h *Handler) bool { return h.Name == name }) {
			a.log.Warn("reverse_proxy asks for upstreams that there are not, and answers 503", zap.Error(errNoneNamed(name)))
		}
	}
}

// Stop leaves the storage and the sources of upstreams. In a reload, those of the
// new configuration are looked at already.
func (a *statesApp) Stop() error {
	var all discovery.Sources
	for _, h := range a.handlers {
		h.counted.Stop()
		all = append(all, h.sources...)
	}
	all.Retire()
	for _, d := range a.dashboards {
		d.Stop()
	}
	a.events.Leave()
	a.sync.Detach()
	a.sync = nil
	return nil
}

// Cleanup is Stop for a configuration that has failed when all apps had been
// started, which Caddy does not stop.
func (a *statesApp) Cleanup() error {
	if a.sync == nil {
		return nil
	}
	return a.Stop()
}

// Interface guards
var (
	_ caddy.App          = (*statesApp)(nil)
	_ caddy.Provisioner  = (*statesApp)(nil)
	_ caddy.CleanerUpper = (*statesApp)(nil)
	_ guest.App          = (*statesApp)(nil)
)

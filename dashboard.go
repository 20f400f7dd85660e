package websocketproxy

import (
	"cmp"
	"iter"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dashboard"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

func init() {
	caddy.RegisterModule(process.board.Module())
	process.board.Register()
}

// AddDashboard implements dashboard.App.
func (a *statesApp) AddDashboard(d *dashboard.Handler) { a.dashboards = append(a.dashboards, d) }

// shownProcess is what operators see of a process, by the admin API and on the page.
type shownProcess struct {
	admin.Process

	process *processWide
}

func (p *processWide) shown() *shownProcess {
	return &shownProcess{admin.Process{Live: p.live, Table: p.table, States: p.operators}, p}
}

// Pools implements dashboard.Backend.
func (p *shownProcess) Pools() (all []dashboard.Pool) {
	for _, loaded := range p.process.evictor.Pools() {
		pool := dashboard.Pool{Handler: metrics.Label(cmp.Or(loaded.Name, metrics.DefaultHandler)), Queued: loaded.Pool.WaitingNow()}
		for _, s := range loaded.Pool.Standings() {
			pool.Members = append(pool.Members, dashboard.Member{
				Upstream: s.Host.Address, Weight: s.Weight, Most: max(0, s.Limit),
			})
		}
		all = append(all, pool)
	}
	return all
}

// Numbers implements dashboard.Backend.
func (p *shownProcess) Numbers() dashboard.Numbers {
	s := p.process.metrics.Snapshot()
	return dashboard.NumbersOf(&s)
}

// Snapshots implements dashboard.Backend.
func (p *shownProcess) Snapshots(wanted func(*tunnel.About) bool) iter.Seq[tunnel.Snapshot] {
	return p.Live.Snapshots(wanted)
}

// Interface guards
var (
	_ dashboard.App     = (*statesApp)(nil)
	_ dashboard.Backend = (*shownProcess)(nil)
)

package dashboard

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Row is an upstream of a handler.
type Row struct {
	Handler  string `json:"handler"`
	Upstream string `json:"upstream"`
	// Status is what it is to the handler, and State what an operator has said.
	Status string `json:"status"`
	State  string `json:"state"`
	// Tunnels are the handler's, and All those of every handler, with handshakes under
	// way, which is what actions are about.
	Tunnels int `json:"tunnels"`
	All     int `json:"all"`
	// Weight is the one in force, which agents and reports change; -1 where the handler does
	// not have the upstream.
	Weight float64 `json:"weight"`
	// Most is how many tunnels it may have.
	Most int `json:"most,omitempty"`
	// Handshakes are those under way of every handler, and HandshakesLimit is how many may
	// be. Both are left out where there is no limit.
	Handshakes      int `json:"handshakes,omitempty"`
	HandshakesLimit int `json:"handshakes_limit,omitempty"`
	// Opened and Closed are per second.
	Opened float64 `json:"opened"`
	Closed float64 `json:"closed"`
	// P50 and P99 are how long handshakes took in the last five minutes, in
	// milliseconds; negative: there was none.
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	// Slow tells that others of the handler are far faster.
	Slow bool `json:"slow,omitempty"`
	// Failed are attempts of the last five minutes that have failed, by cause.
	Failed map[string]uint64 `json:"failed,omitempty"`
	Error  string            `json:"error,omitempty"`
	// Agent is what its agent says, with the reason, and Load the utilisation that it has
	// reported.
	Agent   string    `json:"agent,omitempty"`
	Load    float64   `json:"load,omitempty"`
	By      string    `json:"by,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
}

// rows are all upstreams of all handlers, worst first.
func (h *history) rows(f *facts) []Row {
	upstreams := byAddress(f.upstreams)
	rows := []Row{}
	listed, addresses := make(map[Pair]bool), make(map[string]bool)
	recent, minutes := h.before(f.at, recently), h.before(f.at, lately)
	list := func(handler string, m Member) {
		pair := Pair{metrics.Label(handler), metrics.Label(m.Upstream)} // as counts have them
		if listed[pair] {
			return
		}
		listed[pair], addresses[pair.Upstream] = true, true
		rows = append(rows, f.row(pair, m, upstreams[m.Upstream], recent, minutes))
	}
	for _, pool := range mergePools(f.pools) {
		for _, m := range pool.Members {
			list(pool.Handler, m)
		}
	}
	for pair, n := range f.numbers.Pairs {
		if n.Open > 0 {
			list(pair.Handler, Member{Upstream: pair.Upstream, Weight: -1})
		}
	}
	for i := range f.upstreams { // with nothing but a state, or handshakes
		if address := f.upstreams[i].Address; !addresses[metrics.Label(address)] {
			list("", Member{Upstream: address, Weight: -1})
		}
	}
	for _, s := range h.slow(f) {
		for i := range rows {
			rows[i].Slow = rows[i].Slow || rows[i].Handler == s.handler && rows[i].Upstream == s.upstream
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(worse(a.Status), worse(b.Status)), cmp.Compare(sum(b.Failed), sum(a.Failed)),
			-compareBools(a.Slow, b.Slow), cmp.Compare(a.Handler, b.Handler), cmp.Compare(a.Upstream, b.Upstream))
	})
	return rows
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func sum(counts map[string]uint64) (n uint64) {
	for count := range maps.Values(counts) {
		n += count
	}
	return n
}

// row is what is shown of an upstream of a handler.
func (f *facts) row(pair Pair, m Member, u *admin.Upstream, recent, minutes *facts) Row {
	now := f.numbers.Pairs[pair]
	if pair.Handler == "" && u != nil {
		now.Open = u.Tunnels
	}
	r := Row{
		Handler: shown(pair.Handler), Upstream: shown(m.Upstream), Status: statusOf(u, m.Most), State: upstream.Removed,
		Tunnels: now.Open, Weight: round(m.Weight), Most: m.Most, P50: -1, P99: -1,
	}
	if u == nil && now.Open > 0 { // its addresses depend on requests, and have rows of their own
		r.Status, r.State = Usable, ""
	}
	if u != nil {
		r.State, r.All, r.Error = u.State, u.Tunnels, shown(u.HealthError)
		r.Agent, r.Load = agentOf(u), u.Load
		if u.HandshakesLimit > 0 {
			r.Handshakes, r.HandshakesLimit = u.Handshakes, u.HandshakesLimit
		}
		r.By, r.Since, r.Expires = shown(u.By), u.Since, u.Expires
	}
	if recent != nil {
		was, over := recent.numbers.Pairs[pair], f.at.Sub(recent.at)
		r.Opened, r.Closed = perSecond(now.Opened, was.Opened, over), perSecond(now.Closed, was.Closed, over)
	}
	if minutes != nil {
		r.Failed = grownBy(now.Failed, minutes.numbers.Pairs[pair].Failed)
		took := f.numbers.Took[pair.Upstream].since(minutes.numbers.Took[pair.Upstream])
		r.P50, r.P99 = milliseconds(took.quantile(0.5)), milliseconds(took.quantile(0.99))
	}
	return r
}

// agentOf is what is shown of an agent's words.
func agentOf(u *admin.Upstream) string {
	says := shown(u.Agent)
	if u.AgentReason != "" {
		says += ": " + shown(u.AgentReason)
	}
	if u.AgentError != "" {
		says += " (" + shown(u.AgentError) + ")"
	}
	return strings.TrimSpace(says)
}

func milliseconds(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return round(d.Seconds() * 1000)
}

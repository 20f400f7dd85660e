package dashboard

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const (
	// mostRows, mostProblems, mostGoing and mostWhys bound the lists of a summary, which
	// stays below 20 KB.
	mostRows     = 36
	mostProblems = 6
	mostGoing    = 10
	mostWhys     = 3
	// seriesLength is how many points the series of 15 minutes have.
	seriesLength = 90
)

// Summary is what the page asks for every two seconds. Nothing in it changes by itself, so
// that it has the same tag as long as nothing happens.
type Summary struct {
	// Version is that of the page's files.
	Version string `json:"version"`
	// Actions tells whether something can be changed, and You who would have done it.
	Actions bool   `json:"actions"`
	You     string `json:"you,omitempty"`
	// Level is good, warn or bad, the worst of the problems.
	Level    string    `json:"level"`
	Problems []Problem `json:"problems"`
	// Tunnels is about all of them.
	Tunnels Tunnels `json:"tunnels"`
	// Whys are why handshakes were refused and tunnels cut in the last five minutes,
	// most frequent first.
	Whys []Why `json:"whys"`
	// Going are the upstreams that are to become empty.
	Going []Going `json:"going"`
	// Rows are upstreams of handlers, worst first, and More how many are left out.
	Rows []Row `json:"rows"`
	More int   `json:"more,omitempty"`
}

// Tunnels is whether clients come back.
type Tunnels struct {
	// Open are those that are open now, and Before those of 15 minutes ago, or as long
	// ago as is known: BeforeAge, in seconds.
	Open      int `json:"open"`
	Before    int `json:"before"`
	BeforeAge int `json:"before_age"`
	// Opened, Closed and Refused are per second, over the last 15 seconds.
	Opened  float64 `json:"opened"`
	Closed  float64 `json:"closed"`
	Refused float64 `json:"refused"`
	// Series are the last 15 minutes, oldest first, one for each Step seconds; Opens and
	// Closes are how many there were in one step.
	Step   int   `json:"step"`
	Opens  []int `json:"opens"`
	Closes []int `json:"closes"`
	Series []int `json:"series"`
}

// Why is why something was refused or cut.
type Why struct {
	Kind  string `json:"kind"` // end or refusal
	Why   string `json:"why"`
	Count uint64 `json:"count"`
	Words string `json:"words"`
	Do    string `json:"do,omitempty"`
}

// Going is how far an upstream is from being empty.
type Going struct {
	Upstream string `json:"upstream"`
	State    string `json:"state"`
	// Tunnels are left of First.
	Tunnels int       `json:"tunnels"`
	First   int       `json:"first"`
	By      string    `json:"by,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	// Rate is how many go a second.
	Rate float64 `json:"rate"`
	// Empty is when none will be left, if that is known: not where clients decide it.
	Empty time.Time `json:"empty,omitzero"`
	// Half is when half of them had gone, and Oldest when the oldest one that is left
	// was opened.
	Half   time.Time `json:"half,omitzero"`
	Oldest time.Time `json:"oldest,omitzero"`
}

// Row is an upstream of a handler.
type Row struct {
	Handler  string `json:"handler"`
	Upstream string `json:"upstream"`
	// Status is what it is to the handler, and State what an operator has said.
	Status string `json:"status"`
	State  string `json:"state"`
	// Tunnels are the handler's, and All those of every handler, with handshakes under
	// way, which is what actions are about.
	Tunnels int     `json:"tunnels"`
	All     int     `json:"all"`
	Weight  float64 `json:"weight,omitempty"`
	Most    int     `json:"most,omitempty"`
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

// summary says what is now.
func (b *Board) summary(now time.Time) *Summary {
	f := b.gather(now)
	b.mu.Lock()
	defer b.mu.Unlock()
	h := &b.history
	s := &Summary{
		Version: pageVersion, Level: "good",
		Problems: make([]Problem, 0, mostProblems), Tunnels: h.tunnels(f), Whys: h.whys(f), Going: h.goingOf(f),
	}
	for _, p := range h.judge(f) {
		if p.Since.IsZero() {
			p.Since = cmp.Or(h.since[p.key], now.Truncate(time.Second))
		}
		if severity(p.Level) > severity(s.Level) {
			s.Level = p.Level
		}
		if len(s.Problems) < mostProblems {
			s.Problems = append(s.Problems, p)
		}
	}
	s.Rows = h.rows(f)
	if len(s.Rows) > mostRows {
		s.More = len(s.Rows) - mostRows
		s.Rows = s.Rows[:mostRows]
	}
	return s
}

// tunnels tells whether clients come back.
func (h *history) tunnels(f *facts) Tunnels {
	now := f.numbers.totals()
	t := Tunnels{
		Open: int(now.open), Before: int(now.open), Step: int(sampleInterval.Seconds()) * historyLength / seriesLength,
		Opens: []int{}, Closes: []int{}, Series: []int{},
	}
	if n := len(h.totals); n > 0 {
		t.Before, t.BeforeAge = int(h.totals[0].open), n*int(sampleInterval.Seconds())
	}
	if b := h.before(f.at, recently); b != nil {
		was, over := b.numbers.totals(), f.at.Sub(b.at)
		t.Opened, t.Closed = perSecond(now.opened, was.opened, over), perSecond(now.closed, was.closed, over)
		t.Refused = perSecond(now.refused, was.refused, over)
	}
	const each = historyLength / seriesLength
	for i := len(h.totals) % each; i+each <= len(h.totals); i += each {
		end := h.totals[i+each-1]
		from := end
		if i > 0 {
			from = h.totals[i-1]
		}
		t.Series = append(t.Series, int(end.open))
		t.Opens = append(t.Opens, int(grown(end.opened, from.opened)))
		t.Closes = append(t.Closes, int(grown(end.closed, from.closed)))
	}
	return t
}

// whys are the most frequent reasons and causes of the last minutes that say something.
func (h *history) whys(f *facts) []Why {
	ended, refused, codes := make(map[string]uint64), make(map[string]uint64), make(map[string]uint64)
	if before := h.before(f.at, lately); before != nil {
		for name, n := range f.numbers.Handlers {
			was := before.numbers.Handlers[name]
			add(ended, grownBy(n.Ended, was.Ended))
			add(refused, grownBy(n.Refused, was.Refused))
			add(codes, grownBy(n.Codes, was.Codes))
		}
	}
	all := make([]Why, 0, mostWhys)
	for reason, n := range ended {
		if !isOrdinary(reason) {
			all = append(all, Why{Kind: Ended, Why: reason, Count: n})
		}
	}
	for cause, n := range refused {
		all = append(all, Why{Kind: Refused, Why: cause, Count: n})
	}
	for code, n := range codes {
		if m, known := closings[code]; known {
			all = append(all, Why{Kind: Ended, Why: string(tunnel.UpstreamClosed) + " " + code, Count: n, Words: m.words, Do: m.do})
		}
	}
	slices.SortFunc(all, func(a, b Why) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Why, b.Why)) })
	all = all[:min(len(all), mostWhys)]
	for i := range all {
		m, _ := meaningOf(all[i].Kind, all[i].Why)
		all[i].Words, all[i].Do = cmp.Or(all[i].Words, m.words, all[i].Why), cmp.Or(all[i].Do, m.do)
	}
	return all
}

func add(sum, more map[string]uint64) {
	for word, n := range more {
		sum[word] += n
	}
}

// goingOf tells how far upstreams are from being empty: those with tunnels first.
func (h *history) goingOf(f *facts) []Going {
	all := []Going{}
	before := h.before(f.at, recently)
	was := make(map[string]*admin.Upstream)
	if before != nil && f.at.Sub(before.at) >= time.Second {
		was = byAddress(before.upstreams)
	}
	for i := range f.upstreams {
		u := &f.upstreams[i]
		if !isGoing(u) {
			continue
		}
		g := Going{
			Upstream: shown(u.Address), State: u.State, Tunnels: u.Tunnels, First: u.Tunnels,
			By: shown(u.By), Since: u.Since, Expires: u.Expires,
		}
		if track := h.going[u.Address]; track != nil && track.state == u.State && track.set.Equal(u.Since) {
			g.First, g.Half, g.Oldest = max(track.first, u.Tunnels), track.half, track.oldest
		}
		g.Rate = h.leaving(f, u, was[u.Address], before)
		g.Empty = h.emptyAt(f, u)
		all = append(all, g)
	}
	slices.SortStableFunc(all, func(a, b Going) int { return cmp.Compare(b.Tunnels, a.Tunnels) })
	return all[:min(len(all), mostGoing)]
}

// emptyAt is when none will be left: at the end of the operator's period, or else at the
// rate of the tunnels that have gone since it began. Zero: clients decide it.
func (h *history) emptyAt(f *facts, u *admin.Upstream) time.Time {
	if u.State == upstream.Drain || u.State == upstream.Maint || u.Tunnels == 0 {
		return time.Time{}
	}
	end := u.Since.Add(time.Duration(u.Period * float64(time.Second)))
	if u.State == upstream.Evict && end.After(f.at) {
		return end.Truncate(time.Second)
	}
	track := h.going[u.Address]
	if track == nil || !track.set.Equal(u.Since) || track.first <= u.Tunnels {
		return time.Time{}
	}
	each := f.at.Sub(track.began) / time.Duration(track.first-u.Tunnels)
	return f.at.Add(each * time.Duration(u.Tunnels)).Truncate(time.Second)
}

// leaving is how many tunnels an upstream loses a second, of late, but not before it got
// its state.
func (h *history) leaving(f *facts, u, was *admin.Upstream, before *facts) float64 {
	var from time.Time
	had := 0
	switch track := h.going[u.Address]; {
	case was != nil && before.at.After(u.Since):
		from, had = before.at, was.Tunnels
	case track != nil && track.set.Equal(u.Since):
		from, had = track.began, track.first
	}
	if over := f.at.Sub(from); had > u.Tunnels && over >= time.Second {
		return round(float64(had-u.Tunnels) / over.Seconds())
	}
	return 0
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
			list(pair.Handler, Member{Upstream: pair.Upstream})
		}
	}
	for i := range f.upstreams { // with nothing but a state, or handshakes
		if address := f.upstreams[i].Address; !addresses[metrics.Label(address)] {
			list("", Member{Upstream: address})
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
		Tunnels: now.Open, Weight: m.Weight, Most: m.Most, P50: -1, P99: -1,
	}
	if u == nil && now.Open > 0 { // its addresses depend on requests, and have rows of their own
		r.Status, r.State = Usable, ""
	}
	if u != nil {
		r.State, r.All, r.Error = u.State, u.Tunnels, shown(u.HealthError)
		r.Agent, r.Load = agentOf(u), u.Load
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

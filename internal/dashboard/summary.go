package dashboard

import (
	"cmp"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

const (
	// mostRows, mostProblems, mostGoing and mostWhys bound the lists of a summary, which
	// stays below 20 KB.
	mostRows     = 30
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

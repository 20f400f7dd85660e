package dashboard

import (
	"math"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
)

const (
	// sampleInterval is the time from one sample to the next, and historyLength how
	// many of them there are: those of 15 minutes.
	sampleInterval = 5 * time.Second
	historyLength  = 180
	// fullLength is how many of the last samples are kept in full, for what happens a
	// second; minutes is how many there are of the minutes before, for what depends on
	// more.
	fullLength = 4
	minutes    = 6
	// recently is the time that what happens a second is told over, lately the one for
	// reasons, causes and how long handshakes take, and justNow the one for what is wrong.
	recently = 15 * time.Second
	lately   = 5 * time.Minute
	justNow  = time.Minute
)

// facts is everything that is shown, at one moment.
type facts struct {
	at        time.Time
	upstreams []admin.Upstream
	pools     []Pool
	numbers   Numbers
	oldest    map[string]time.Time // tunnel of an upstream that is to become empty
	files     descriptors
}

// totals are the counts of all handlers.
type totals struct {
	open                    int32
	opened, closed, refused uint64
}

// history is what is kept of the last minutes.
type history struct {
	totals []totals // oldest first
	full   []*facts // the last ones, oldest first
	minute []*facts // one of each minute, oldest first
	since  map[string]time.Time
	going  map[string]*going // upstreams that are to become empty
}

func newHistory() history {
	return history{since: make(map[string]time.Time), going: make(map[string]*going)}
}

// going is how far an upstream is from being empty.
type going struct {
	state  string
	set    time.Time // when it got the state
	first  int       // tunnels when it was seen first
	began  time.Time
	left   int       // tunnels when it was seen last
	fell   time.Time // when there were fewer than before; when it began, if there never were
	half   time.Time // when half of them had gone
	oldest time.Time // tunnel
}

// add takes a sample.
func (h *history) add(f *facts) {
	if len(h.minute) == 0 || f.at.Sub(h.minute[len(h.minute)-1].at) >= time.Minute {
		h.minute = last(append(h.minute, f), minutes)
	}
	h.full = last(append(h.full, f), fullLength)
	h.totals = last(append(h.totals, f.numbers.totals()), historyLength)
	h.follow(f)
	h.note(f.at, h.judge(f))
}

// last returns the last n of all, in an array that has no more than twice as many.
func last[T any](all []T, n int) []T {
	if len(all) <= n {
		return all
	}
	copy(all, all[len(all)-n:])
	clear(all[n:])
	return all[:n]
}

// follow notes how upstreams become empty.
func (h *history) follow(f *facts) {
	seen := make(map[string]bool)
	for i := range f.upstreams {
		u := &f.upstreams[i]
		if !isGoing(u) {
			continue
		}
		seen[u.Address] = true
		g := h.going[u.Address]
		if g == nil || g.state != u.State || !g.set.Equal(u.Since) {
			g = &going{state: u.State, set: u.Since, first: u.Tunnels, began: f.at, left: u.Tunnels, fell: f.at}
			h.going[u.Address] = g
		}
		if u.Tunnels < g.left {
			g.fell = f.at
		}
		g.left = u.Tunnels
		g.first = max(g.first, u.Tunnels)
		g.oldest = f.oldest[u.Address]
		if g.half.IsZero() && u.Tunnels*2 <= g.first {
			g.half = f.at
		}
	}
	for address := range h.going {
		if !seen[address] {
			delete(h.going, address)
		}
	}
}

// isGoing reports whether an upstream is to become empty.
func isGoing(u *admin.Upstream) bool {
	return u.State != "ready" && u.State != ""
}

// note notes since when something is wrong.
func (h *history) note(now time.Time, problems []Problem) {
	present := make(map[string]bool, len(problems))
	for _, p := range problems {
		present[p.key] = true
		if _, known := h.since[p.key]; !known {
			h.since[p.key] = now
		}
	}
	for key := range h.since {
		if !present[key] {
			delete(h.since, key)
		}
	}
}

// before returns the sample that is nearest to some time ago, or the oldest one; nil if
// there is none.
func (h *history) before(now time.Time, ago time.Duration) (nearest *facts) {
	for _, all := range [][]*facts{h.minute, h.full} {
		for _, f := range all {
			if nearest == nil || distance(f, now, ago) < distance(nearest, now, ago) {
				nearest = f
			}
		}
	}
	return nearest
}

func distance(f *facts, now time.Time, ago time.Duration) time.Duration {
	return (now.Sub(f.at) - ago).Abs()
}

// grown is by how much a count has grown. An upstream's counts begin anew when it has
// been away.
func grown(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// grownBy is grown for counts by a word.
func grownBy(now, before map[string]uint64) map[string]uint64 {
	all := make(map[string]uint64)
	for word, n := range now {
		if by := grown(n, before[word]); by > 0 {
			all[word] = by
		}
	}
	return all
}

// perSecond is a rate.
func perSecond(now, before uint64, over time.Duration) float64 {
	if over < time.Second {
		return 0
	}
	return round(float64(grown(now, before)) / over.Seconds())
}

// round leaves two digits behind the point: more would be noise, and change the
// summary's tag.
func round(x float64) float64 {
	return math.Round(x*100) / 100
}

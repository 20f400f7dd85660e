package dashboard

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// The levels of a problem.
const (
	warn = "warn"
	bad  = "bad"
)

const (
	// fewest is from how many on something is worth a word.
	fewest = 5
	// stormFactor is how many times more handshakes than usual are a storm, and
	// stormLeast how many there have to be in a minute.
	stormFactor, stormLeast = 4, 100
	// slowFactor is how many times longer than at the fastest upstream of the handler
	// handshakes take at a slow one, and slowLeast how long at least.
	slowFactor, slowLeast = 4, 250 * time.Millisecond
)

// Problem is something that is wrong.
type Problem struct {
	// Level is warn or bad.
	Level string `json:"level"`
	// Words say what, and Do what to do.
	Words string `json:"words"`
	Do    string `json:"do,omitempty"`
	// Since is when it began, as far as that is known: when it was seen first.
	Since time.Time `json:"since"`

	key string // the same as long as it is the same problem
}

// judge says what is wrong, the worst first.
func (h *history) judge(f *facts) (problems []Problem) {
	before := h.before(f.at, justNow)
	problems = append(problems, judgePools(f)...)
	problems = append(problems, judgeProcess(f)...)
	problems = append(problems, h.stuck(f)...)
	for i := range f.upstreams {
		if p, wrong := judgeUpstream(&f.upstreams[i]); wrong {
			problems = append(problems, p)
		}
	}
	for _, s := range h.slow(f) {
		problems = append(problems, Problem{
			Level: warn, key: "slow " + s.handler + " " + s.upstream,
			Words: fmt.Sprintf("%s answers handshakes slowly: half of them take %v or more, at %s %v.",
				s.upstream, rough(s.took), s.fastest, rough(s.best)),
			Do: "Drain it, and look at it.",
		})
	}
	if before != nil && f.at.Sub(before.at) >= sampleInterval {
		problems = append(problems, judgeHandshakes(f, before)...)
	}
	if storm, wrong := h.judgeStorm(f.numbers.totals()); wrong {
		problems = append(problems, storm)
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Compare(severity(b.Level), severity(a.Level)) })
	return problems
}

func severity(level string) int {
	switch level {
	case bad:
		return 2
	case warn:
		return 1
	}
	return 0
}

// judgePools looks for handlers none of whose upstreams can take a tunnel, and for those
// where handshakes wait.
func judgePools(f *facts) (problems []Problem) {
	byAddress := byAddress(f.upstreams)
	for _, pool := range mergePools(f.pools) {
		usable, full := 0, 0
		for _, m := range pool.Members {
			switch statusOf(byAddress[m.Upstream], m.Most) {
			case Full:
				usable++
				full++
			case Usable, Doubtful, Failing:
				usable++
			}
		}
		if pool.Queued > 0 {
			problems = append(problems, judgeQueue(&pool, full == len(pool.Members)))
		}
		if usable == 0 && len(pool.Members) > 0 {
			problems = append(problems, Problem{
				Level: bad, key: "none " + pool.Handler,
				Words: fmt.Sprintf("No upstream of %s takes tunnels.", handlerName(pool.Handler)),
				Do:    "Make ready what is drained or in maint; look at those that are down.",
			})
		}
	}
	return problems
}

// judgeQueue says why handshakes wait: if not all upstreams have as many tunnels as they may
// have, handshakes are limited.
func judgeQueue(p *Pool, full bool) Problem {
	why, do := "which have as many handshakes as they may have at a time, or as many tunnels",
		"In a storm, see whether clients stay; else add upstreams, or raise max_handshakes, handshake_rate or max_tunnels."
	if full {
		why, do = "which are full", "Add upstreams, or raise max_tunnels."
	}
	return Problem{
		Level: warn, key: "queue " + p.Handler, Do: do,
		Words: fmt.Sprintf("%s %s for upstreams of %s, %s.",
			count(p.Queued, "handshake"), verb(p.Queued, "waits", "wait"), handlerName(p.Handler), why),
	}
}

// judgeUpstream looks at one upstream.
func judgeUpstream(u *admin.Upstream) (p Problem, wrong bool) {
	switch address := shown(u.Address); {
	case u.Health == upstream.Down:
		p = Problem{
			Level: warn, key: "down " + u.Address, Words: address + " is down: " + cmp.Or(shown(u.HealthError), "its check fails") + ".",
			Do: "Look at the upstream; it gets no tunnels until its check passes.",
		}
	case u.Failing && u.State == upstream.Ready:
		p = Problem{
			Level: warn, key: "failing " + u.Address, Words: address + " cannot be connected to.",
			Do: "Look at the upstream; it gets tunnels only if no other one can take them.",
		}
	case u.Doubtful && u.State == upstream.Ready:
		p = Problem{
			Level: warn, key: "doubtful " + u.Address, Words: address + " is doubtful: others answer what it does not.",
			Do: "Look at the upstream; it gets newcomers only if no other one of its kind can take them.",
		}
	default:
		return p, false
	}
	return p, true
}

// judgeHandshakes looks at what the last minute has brought.
func judgeHandshakes(f, before *facts) (problems []Problem) {
	over := f.at.Sub(before.at)
	now, was := f.numbers.totals(), before.numbers.totals()
	failed, lost := 0, 0
	for name, h := range f.numbers.Handlers {
		b := before.numbers.Handlers[name]
		for cause, n := range grownBy(h.Refused, b.Refused) {
			if isOurs(cause) {
				failed += int(n)
			}
		}
		for reason, n := range grownBy(h.Ended, b.Ended) {
			if isLoss(reason) {
				lost += int(n)
			}
		}
	}
	opened := int(grown(now.opened, was.opened))
	if all := failed + opened; failed >= fewest && failed*20 >= all {
		level := warn
		if failed*2 >= all {
			level = bad
		}
		problems = append(problems, Problem{
			Level: level, key: "refused",
			Words: fmt.Sprintf("%d of %s failed in the last %s.", failed, count(all, "handshake"), spell(over)),
			Do:    "See why below.",
		})
	}
	if lost >= fewest && lost*20 >= int(was.open) {
		problems = append(problems, Problem{
			Level: warn, key: "lost",
			Words: fmt.Sprintf("%s %s cut by upstreams in the last %s.", count(lost, "tunnel"), verb(lost, "was", "were"), spell(over)),
			Do:    "See which upstream, and its log.",
		})
	}
	return problems
}

// judgeStorm looks whether far more clients come than usual.
func (h *history) judgeStorm(now totals) (p Problem, wrong bool) {
	const each = int(time.Minute / sampleInterval)
	n := len(h.totals)
	if n < 4*each {
		return p, false
	}
	attempts := func(from, to totals) int {
		return int(grown(to.opened, from.opened) + grown(to.refused, from.refused))
	}
	lastMinute := attempts(h.totals[n-each], now)
	usual := attempts(h.totals[0], h.totals[n-each]) * each / (n - each)
	if lastMinute < stormLeast || lastMinute < stormFactor*usual {
		return p, false
	}
	return Problem{
		Level: warn, key: "storm",
		Words: fmt.Sprintf("Clients come back in numbers: %d handshakes in the last minute, usually %d.", lastMinute, usual),
		Do:    "See below whether they stay; an eviction with a longer period spreads them.",
	}, true
}

// slowUpstream is one at which handshakes have taken far longer in the last minutes than
// at the fastest one of its handler. Names are as they are shown.
type slowUpstream struct {
	handler, upstream, fastest string
	took, best                 time.Duration // the medians
}

// slow looks for them. An upstream alone is compared with nothing.
func (h *history) slow(f *facts) (all []slowUpstream) {
	before := h.before(f.at, lately)
	if before == nil {
		return nil
	}
	median := func(m Member) time.Duration {
		label := metrics.Label(m.Upstream)
		took := f.numbers.Took[label].since(before.numbers.Took[label])
		if took.total() < fewest {
			return -1
		}
		return took.quantile(0.5)
	}
	for _, pool := range mergePools(f.pools) {
		best := slowUpstream{best: -1}
		for _, m := range pool.Members {
			if d := median(m); d >= 0 && (best.best < 0 || d < best.best) {
				best = slowUpstream{fastest: shown(m.Upstream), best: d}
			}
		}
		for _, m := range pool.Members {
			if d := median(m); best.best >= 0 && d >= slowLeast && d >= slowFactor*best.best {
				all = append(all, slowUpstream{
					shown(metrics.Label(pool.Handler)), shown(m.Upstream), best.fastest, d, best.best,
				})
			}
		}
	}
	return all
}

// rough is a duration as people say it.
func rough(d time.Duration) time.Duration {
	if d >= time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

func handlerName(name string) string {
	if name == "" {
		return "the handler without a name"
	}
	return shown(name)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func spell(d time.Duration) string {
	if d = d.Round(time.Second); d >= 55*time.Second && d < 90*time.Second {
		return "minute"
	} else if d < time.Minute {
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	}
	return fmt.Sprintf("%d minutes", int(d.Round(time.Minute).Minutes()))
}

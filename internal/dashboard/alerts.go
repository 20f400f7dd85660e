package dashboard

import (
	"fmt"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// What follows are the bounds of the alerts in observability/rules.yml.
const (
	// stuckAfter is how long no tunnel of an upstream that is evicted has ended.
	stuckAfter = 20 * time.Minute
	// outOfReach is how long the storage of operators' states has not answered, and
	// neverReached how many times at least if it never has.
	outOfReach, neverReached = time.Minute, 3
	// crowded is how many percent of the descriptors are in use.
	crowded = 80
)

// judgeProcess looks at what all tunnels of the process need.
func judgeProcess(f *facts) (problems []Problem) {
	if used := f.files.percent(); used >= crowded {
		problems = append(problems, Problem{
			Level: bad, key: "descriptors",
			Words: fmt.Sprintf("%d %% of the %d file descriptors that this process may have are in use; a tunnel needs two.", used, f.files.limit),
			Do: "Raise LimitNOFILE of its systemd unit, or ulimit -n, with the next restart; until then, " +
				"have the load balancer send new clients elsewhere.",
		})
	}
	last, failed := f.numbers.LastSync, f.numbers.SyncsFailed
	if last.IsZero() && failed < neverReached || !last.IsZero() && f.at.Sub(last) <= outOfReach {
		return problems
	}
	words := "The storage of operators' states is out of reach."
	if last.IsZero() {
		words = "The storage of operators' states has never been reached."
	}
	return append(problems, Problem{
		Level: warn, key: "storage", Words: words, Since: last,
		Do: "What is set here does not hold at other instances, nor the other way round. The log line " +
			`"the storage of upstream states fails" has the error: is Caddy's storage up, and may this machine reach it?`,
	})
}

// stuck looks for evictions by which no tunnel has ended for too long, and that should be
// over. Only what has been seen counts.
func (h *history) stuck(f *facts) (problems []Problem) {
	for i := range f.upstreams {
		u := &f.upstreams[i]
		g := h.going[u.Address]
		if u.State != upstream.Evict || u.Tunnels == 0 || g == nil || g.state != u.State || !g.set.Equal(u.Since) {
			continue
		}
		since := g.fell
		if over := u.Since.Add(time.Duration(u.Period * float64(time.Second))); over.After(since) {
			since = over
		}
		if u.Tunnels < g.left || f.at.Sub(since) < stuckAfter {
			continue
		}
		problems = append(problems, Problem{
			Level: warn, key: "stuck " + u.Address, Since: since.Truncate(time.Second),
			Words: fmt.Sprintf("%s is being evicted, and none of its %s ends.", shown(u.Address), count(u.Tunnels, "tunnel")),
			Do:    "Look for it among the open tunnels, whether these clients take nothing; close them there.",
		})
	}
	return problems
}

// descriptors are those of the process.
type descriptors struct{ open, limit uint64 } // zero: unknown

// percent is how many percent are in use; zero if that is unknown.
func (d descriptors) percent() uint64 {
	if d.limit == 0 {
		return 0
	}
	return d.open * 100 / d.limit
}

// fileCount counts descriptors, which may take a while where there are many.
type fileCount struct {
	mu   sync.Mutex // guards what follows; a leaf
	at   time.Time
	last descriptors
}

// countFor is how long a count is good for.
const countFor = 10 * time.Second

// look returns how many there are, or were a moment ago.
func (c *fileCount) look() descriptors {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.at.IsZero() || now.Sub(c.at) >= countFor {
		c.at, c.last = now, countDescriptors()
	}
	return c.last
}

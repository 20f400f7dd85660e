package upstream

import (
	"slices"
	"time"
)

// Policy picks one of the endpoints that may get another tunnel, or nil if
// there are none. It may change their order. Its caller holds the table's lock and
// reserves what it returns, so the choice and its count are one step. random
// returns a number in [0, n).
type Policy interface {
	Pick(eligible []*Endpoint, random func(n int) int) *Endpoint
}

// classes is how many kinds of endpoints there are to choose from, one after
// another.
const classes = 4

// class tells when e is chosen: only if there is none of a lower class. Backups
// come after others, and what passive checks have found failing after
// everything else, so that these never leave a pool without upstreams.
func (e *Endpoint) class() int {
	class := 0
	if e.Server.Backup {
		class = 1
	}
	if e.failing {
		class += 2
	}
	return class
}

// eligible appends to buf the endpoints of pool that may get another tunnel: of
// those that were not tried before and are usable and not full, the ones of the
// lowest class. The caller holds the table's lock.
func eligible(buf, pool []*Endpoint, tried []*Server) []*Endpoint {
	first := len(tried) == 0 // asked once here, as it matters in large pools
	for class := range classes {
		for _, e := range pool {
			if e.class() == class && e.takesMore() && (first || !slices.Contains(tried, e.Server)) {
				buf = append(buf, e)
			}
		}
		if len(buf) > 0 {
			break
		}
	}
	return buf
}

// isUsable reports whether e may get tunnels at all: no operator wants it
// empty, and it passes its active check.
func (e *Endpoint) isUsable() bool {
	return !e.Host.closed && !e.down
}

// isFull reports whether e has as many tunnels as its upstream may have.
func (e *Endpoint) isFull() bool {
	return e.Server.MaxTunnels > 0 && e.Host.tunnels >= e.Server.MaxTunnels
}

func (e *Endpoint) takesMore() bool { return e.isUsable() && !e.isFull() }

// ramped returns those of some endpoints that take part in this choice, and
// changes the order. What has joined lately is left out with a probability that
// falls over slowStart, unless there is nothing else. A smaller weight would not
// do: least_conn sends everybody to an upstream without tunnels, whatever its
// weight is.
func ramped(some []*Endpoint, slowStart time.Duration, now time.Time, random func(n int) int) []*Endpoint {
	n := 0
	for i, e := range some {
		if joined := e.slowSince(); !joined.IsZero() && !drawn(now.Sub(joined), slowStart, random) {
			continue
		}
		some[n], some[i] = e, some[n]
		n++
	}
	if n == 0 {
		return some
	}
	return some[:n]
}

// drawn is true with the probability passed/whole.
func drawn(passed, whole time.Duration, random func(n int) int) bool {
	// In milliseconds, as an int may have 32 bits.
	return passed >= whole || random(int(whole.Milliseconds())) < int(passed.Milliseconds())
}

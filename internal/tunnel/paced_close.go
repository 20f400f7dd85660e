package tunnel

import (
	"math/rand/v2"
	"slices"
	"time"
)

// pacedClose is a number of tunnels that the proxy ends one after another, so that
// their clients do not all come back at once.
type pacedClose struct {
	tunnels []*Tunnel
	// period is the time over which they are spread. Zero means at once.
	period time.Duration
	// wanted is asked while the turn of each is waited for, and right before its
	// end; nil means yes.
	wanted func(*Tunnel) bool
	end    func(*Tunnel)
}

// IdleFirst sorts tunnels by how long nothing has happened in them: the end of
// those is noticed the least.
func IdleFirst(tunnels []*Tunnel) {
	// What is compared must not change meanwhile.
	type entry struct {
		active int64
		tunnel *Tunnel
	}
	entries := make([]entry, len(tunnels))
	for i, t := range tunnels {
		entries[i] = entry{t.active.Load(), t}
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		switch {
		case a.active < b.active:
			return -1
		case a.active > b.active:
			return 1
		}
		return 0
	})
	for i, e := range entries {
		tunnels[i] = e.tunnel
	}
}

// turn is when within a period it is the turn of tunnel i of n: a random moment of
// its own part.
func turn(i, n int, period time.Duration) time.Duration {
	part := (float64(i) + rand.Float64()) / float64(n) //nolint:gosec // nobody gains from knowing it
	return time.Duration(part * float64(period))
}

// run ends the tunnels evenly over the period, each at a random moment of its
// own part of it, until stop is closed. It does not wait for those that have
// ended by themselves or are not wanted to end any more.
func (p *pacedClose) run(stop <-chan struct{}) {
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, t := range p.tunnels {
		due := start.Add(turn(i, len(p.tunnels), p.period))
		for p.isWanted(t) {
			timer.Reset(min(time.Until(due), SweepInterval))
			select {
			case <-stop:
				return
			case <-t.done:
			case now := <-timer.C:
				if now.Before(due) {
					continue
				}
				if p.isWanted(t) {
					p.end(t)
				}
			}
			break
		}
	}
}

// EndEach ends tunnels one after another in this order, and returns when all have
// begun to end, or when stop is closed. Else it is like EndOneByOne.
func EndEach(stop <-chan struct{}, tunnels []*Tunnel, period time.Duration, due func(*Tunnel) (Ending, bool)) {
	pacedBy(tunnels, period, due).run(stop)
}

// pacedBy has tunnels ended as due says.
func pacedBy(tunnels []*Tunnel, period time.Duration, due func(*Tunnel) (Ending, bool)) *pacedClose {
	return &pacedClose{
		tunnels: tunnels,
		period:  period,
		wanted: func(t *Tunnel) bool {
			_, is := due(t)
			return is
		},
		end: func(t *Tunnel) {
			if e, is := due(t); is {
				t.End(e)
			}
		},
	}
}

func (p *pacedClose) isWanted(t *Tunnel) bool {
	return p.wanted == nil || p.wanted(t)
}

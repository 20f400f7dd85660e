package websocketproxy

import (
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// verdict is what a check has found out about an address. It is shared by all
// endpoints of the address that are to pass this check.
type verdict struct {
	host *host
	key  string // of the check

	// All are guarded by hosts.mu.
	// endpoints are those that the check is for. Each has a copy of down, so that
	// a choice need not look here.
	endpoints []*endpoint
	down      bool
	against   int       // results in a row that speak against down
	checked   time.Time // zero: never
	lastError string    // of the last result that was bad, until the address is up
}

// judge has an endpoint judged by a check, by the verdict that its host has for that
// or a new one.
func (t *hostTable) judge(e *endpoint, key string) *verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := e.host
	i := slices.IndexFunc(h.verdicts, func(v *verdict) bool { return v.key == key })
	if i < 0 {
		i = len(h.verdicts)
		h.verdicts = append(h.verdicts, &verdict{host: h, key: key})
	}
	v := h.verdicts[i]
	v.endpoints = append(v.endpoints, e)
	e.verdict, e.down = v, v.down
	return v
}

// unjudge takes that back. With the last endpoint, what was found out is forgotten. It
// reports whether the address is down by what is checked instead.
func (t *hostTable) unjudge(e *endpoint) (isDown bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := e.verdict
	if v.endpoints = without(v.endpoints, e); len(v.endpoints) > 0 {
		return false
	}
	v.host.verdicts = slices.DeleteFunc(v.host.verdicts, func(other *verdict) bool { return other == v })
	return slices.ContainsFunc(v.host.verdicts, func(other *verdict) bool { return other.down })
}

// isDown reports whether h has failed a check. If nobody makes that any more, a
// reload has changed it, and whatever is checked instead counts.
func (t *hostTable) isDown(h *host, check string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	down := false
	for _, v := range h.verdicts {
		if v.key == check {
			return v.down
		}
		down = down || v.down
	}
	return down
}

// healthLocked returns what operators see of the checks of h. It is down if one
// of them says so.
func (h *host) healthLocked() (health, lastError string, checked time.Time) {
	health = upstream.Unchecked
	for _, v := range h.verdicts {
		switch {
		case v.down:
			health = upstream.Down
		case health == upstream.Unchecked && !v.checked.IsZero():
			health = upstream.Up
		}
		if lastError == "" || v.down {
			lastError = v.lastError
		}
		checked = upstream.Later(checked, v.checked)
	}
	return health, lastError, checked
}

// report takes note of a result: problem is what is wrong with the address, empty if
// nothing is. So many bad ones in a row make it down, so many good ones up again. It
// reports whether this one has changed what the address is.
func (t *hostTable) report(v *verdict, problem string, passes, fails int) (changed, down bool) {
	t.mu.Lock()
	changed = v.countLocked(problem, passes, fails)
	down = v.down
	c := change{kind: addressUp, address: v.host.address, endpoints: slices.Clone(v.endpoints)}
	t.mu.Unlock()
	if down {
		c.kind = addressDown
	}
	if changed {
		t.changed(c)
	}
	return changed, down
}

func (v *verdict) setDownLocked(is bool) {
	v.down = is
	for _, e := range v.endpoints {
		e.down = is
	}
}

// countLocked counts a result, and reports whether it was the last one that the
// address needed to be down or up.
func (v *verdict) countLocked(problem string, passes, fails int) (changed bool) {
	v.checked = time.Now()
	failed, needed := problem != "", fails
	if v.down {
		needed = passes
	}
	if failed == v.down {
		v.against = 0
	} else if v.against++; v.against >= needed {
		v.against, changed = 0, true
		v.setDownLocked(failed)
	}
	switch {
	case failed:
		v.lastError = problem
	case !v.down:
		v.lastError = ""
	}
	return changed
}

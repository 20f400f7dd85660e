package upstream

import (
	"slices"
	"time"
)

// Verdict is what a check has found out about an address. It is shared by all
// endpoints of the address that are to pass this check.
type Verdict struct {
	Host *Host
	key  string // of the check

	// All are guarded by the table's lock.
	// endpoints are those that the check is for. Each has a copy of down, so that
	// a choice need not look here.
	endpoints []*Endpoint
	down      bool
	streak    int       // results in a row that speak against down
	checked   time.Time // zero: never
	lastError string    // of the last result that was bad, until the address is up
	word      Word      // if the check is that of an agent, which decides nothing else
}

// Judge has an endpoint judged by a check, by the verdict that its host has for that
// or a new one.
func (t *Table) Judge(e *Endpoint, key string) *Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := e.Host
	i := slices.IndexFunc(h.verdicts, func(v *Verdict) bool { return v.key == key })
	if i < 0 {
		i = len(h.verdicts)
		h.verdicts = append(h.verdicts, &Verdict{Host: h, key: key})
	}
	v := h.verdicts[i]
	v.endpoints = append(v.endpoints, e)
	e.Verdict, e.down = v, v.down
	e.showLocked()
	return v
}

// Unjudge takes that back. With the last endpoint, what was found out is forgotten. It
// reports whether the address is down by what is checked instead.
func (t *Table) Unjudge(e *Endpoint) (isDown bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := e.Verdict
	if v.endpoints = without(v.endpoints, e); len(v.endpoints) > 0 {
		return false
	}
	v.Host.verdicts = slices.DeleteFunc(v.Host.verdicts, func(other *Verdict) bool { return other == v })
	return slices.ContainsFunc(v.Host.verdicts, func(other *Verdict) bool { return other.down })
}

// IsDown reports whether h has failed a check. If nobody makes that any more, a
// reload has changed it, and whatever is checked instead counts.
func (t *Table) IsDown(h *Host, check string) bool {
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
func (h *Host) healthLocked() (health, lastError string, checked time.Time) {
	health = Unchecked
	for _, v := range h.verdicts {
		switch {
		case v.down:
			health = Down
		case health == Unchecked && !v.checked.IsZero():
			health = Up
		}
		if lastError == "" || v.down {
			lastError = v.lastError
		}
		checked = Later(checked, v.checked)
	}
	return health, lastError, checked
}

// Report takes note of a result: problem is what is wrong with the address, empty if
// nothing is. So many bad ones in a row make it down, so many good ones up again. It
// reports whether this one has changed what the address is.
func (t *Table) Report(v *Verdict, problem string, passes, fails int) (changed, down bool) {
	t.mu.Lock()
	changed = v.countLocked(problem, passes, fails)
	if down = v.down; changed {
		t.serveLocked() // who belongs there may go elsewhere
	}
	c := Change{Kind: AddressUp, Address: v.Host.Address, Endpoints: slices.Clone(v.endpoints)}
	t.mu.Unlock()
	if down {
		c.Kind = AddressDown
	}
	if changed {
		t.Changed(c)
	}
	return changed, down
}

func (v *Verdict) setDownLocked(is bool) {
	v.down = is
	for _, e := range v.endpoints {
		e.down = is
		e.showLocked()
	}
}

// countLocked counts a result, and reports whether it was the last one that the
// address needed to be down or up.
func (v *Verdict) countLocked(problem string, passes, fails int) (changed bool) {
	v.checked = time.Now()
	failed, needed := problem != "", fails
	if v.down {
		needed = passes
	}
	if failed == v.down {
		v.streak = 0
	} else if v.streak++; v.streak >= needed {
		v.streak, changed = 0, true
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

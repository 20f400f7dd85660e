// Package upstream keeps what is known of addresses, and decides who may go to
// which. It knows nothing of Caddy, HTTP or tunnels.
//
// The table's lock makes a choice and its count one step. It is a leaf: it may be taken
// under any other lock, and under it nothing is called but policies and limits, which are pure. A
// pool has another leaf for what its sources have found.
package upstream

import (
	"maps"
	"time"
)

// The states that an operator may give an upstream: HAProxy's words.
const (
	// Ready: the upstream gets tunnels. It is not kept.
	Ready = "ready"
	// Drain: newcomers go elsewhere; clients that belong here still get in.
	Drain = "drain"
	// Maint: no new tunnels for anybody; those that are there stay.
	Maint = "maint"
	// Evict: as Maint, and those that are there end one after another.
	Evict = "evict"
	// Removed cannot be given: no loaded configuration has the upstream, so it
	// gets no new tunnels, but it has some from before.
	Removed = "removed"
)

// LongestExpiry bounds how long a state may be given for; without a bound it is
// for ever.
const LongestExpiry = 365 * 24 * time.Hour

// NamedInterval is how exactly is noted when an address was last in use.
const NamedInterval = time.Hour

// What is said of the health of an upstream: Down if an active check says so,
// Unchecked if none has said anything.
const (
	Up        = "up"
	Down      = "down"
	Unchecked = "unchecked"
)

// State is what an operator has said about an upstream. The zero value
// says nothing, which means ready.
type State struct {
	State string `json:"state"`
	// By is who has set it, and At when. That is how the newest is found, so it
	// is always later than what the instance knew that it was set at.
	By string    `json:"by,omitempty"`
	At time.Time `json:"at"`
	// Expires is when the upstream is ready again by itself; zero means never.
	Expires time.Time `json:"expires,omitzero"`
	// Period is the time over which tunnels are ended, in seconds; zero means
	// the evict_period of their handler.
	Period float64 `json:"period,omitempty"`
	// Named is about when a configuration that has the address was last seen,
	// unless that was before At.
	Named time.Time `json:"named,omitzero"`
}

// Closes reports whether the upstream gets no new tunnels, whoever comes.
func (s State) Closes() bool { return s.State == Maint || s.State == Evict }

// Drains reports whether only newcomers are kept away from the upstream.
func (s State) Drains() bool { return s.State == Drain }

// IsSet reports whether an operator has said something else than ready.
func (s State) IsSet() bool { return s.Closes() || s.Drains() }

// Holds reports whether that is still so, as the state may have expired.
func (s State) Holds(now time.Time) bool {
	return s.IsSet() && (s.Expires.IsZero() || now.Before(s.Expires))
}

// LastNamed is when the address was last known to be in use.
func (s State) LastNamed() time.Time {
	return Later(s.Named, s.At)
}

// Equal reports whether two states say the same.
func (s State) Equal(o State) bool {
	return s.State == o.State && s.By == o.By && s.Period == o.Period &&
		s.At.Equal(o.At) && s.Expires.Equal(o.Expires) && s.Named.Equal(o.Named)
}

// Later returns the later of two times.
func Later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// EvictPeriod is the time over which tunnels are ended; zero means that their
// own configuration says it.
func (s State) EvictPeriod() time.Duration {
	return time.Duration(s.Period * float64(time.Second))
}

// obey has an operator's word hold at h.
func (h *Host) obey(s State) { h.closed, h.draining = s.Closes(), s.Drains() }

// SetStates replaces what operators have said, unless something newer is known, which
// has a higher number. It returns the addresses that have to be emptied from now on, and
// those that get newcomers again.
func (t *Table) SetStates(number uint64, states map[string]State) (evict, ready []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if number <= t.statesNumber {
		return nil, nil
	}
	t.statesNumber = number
	for address, s := range states {
		was := t.states[address]
		if s.State == Evict && (was.State != Evict || !was.At.Equal(s.At)) {
			evict = append(evict, address)
		}
	}
	for address, was := range t.states {
		if was.IsSet() && !states[address].IsSet() {
			ready = append(ready, address)
		}
	}
	for address, h := range t.m {
		// What is said anew is told anew.
		h.emptied = h.emptied && states[address].At.Equal(t.states[address].At)
	}
	t.states = states
	maps.DeleteFunc(t.asked, func(address string, _ time.Time) bool {
		_, said := states[address]
		return !said
	})
	for address, h := range t.m {
		h.obey(states[address])
		h.showLocked()
	}
	t.joinLocked(ready)
	return evict, ready
}

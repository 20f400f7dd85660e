package websocketproxy

import (
	"time"
)

// The states that an operator may give an upstream: HAProxy's words.
const (
	// stateReady: the upstream gets tunnels. It is not kept.
	stateReady = "ready"
	// stateDrain: no new tunnels; those that are there stay.
	stateDrain = "drain"
	// stateEvict: no new tunnels, and those that are there end one after
	// another.
	stateEvict = "evict"
	// stateRemoved cannot be given: no loaded configuration has the upstream, so it
	// gets no new tunnels, but it has some from before.
	stateRemoved = "removed"
)

// operatorState is what an operator has said about an upstream. The zero value
// says nothing, which means ready.
type operatorState struct {
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

// closes reports whether the upstream gets no new tunnels.
func (s operatorState) closes() bool {
	return s.State == stateDrain || s.State == stateEvict
}

// holds reports whether that is still so, as the state may have expired.
func (s operatorState) holds(now time.Time) bool {
	return s.closes() && (s.Expires.IsZero() || now.Before(s.Expires))
}

// lastNamed is when the address was last known to be in use.
func (s operatorState) lastNamed() time.Time {
	return later(s.Named, s.At)
}

func (s operatorState) equal(o operatorState) bool {
	return s.State == o.State && s.By == o.By && s.Period == o.Period &&
		s.At.Equal(o.At) && s.Expires.Equal(o.Expires) && s.Named.Equal(o.Named)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// evictPeriod is the time over which tunnels are ended; zero means that their
// own configuration says it.
func (s operatorState) evictPeriod() time.Duration {
	return time.Duration(s.Period * float64(time.Second))
}

package upstream

import (
	"net/netip"
	"slices"
	"time"
)

// resets are the tunnels that an upstream has reset right after it had opened them. There
// is no witness for these, so it takes as many clients as failures are needed elsewhere.
type resets struct {
	recent []reset // the oldest first
	kept   int     // opened since the first of these, and not over at once
	// last is the network that a tunnel was opened for last, and othersAt when that was
	// last another one than before.
	last     netip.Prefix
	othersAt time.Time
}

type reset struct {
	client netip.Prefix
	at     time.Time
}

// mostResets bounds what is remembered of resets, if no more are needed: where many tunnels
// are opened at once, it takes some until it shows that none of them is kept.
const mostResets = 100

func (r *resets) noteOpened(client netip.Prefix, now time.Time) {
	r.kept++
	if client != r.last {
		r.last, r.othersAt = client, now
	}
}

// note notes a reset, and reports whether so many clients have seen one within a time, and
// no more tunnels are kept. Where only one network comes, each counts.
func (r *resets) note(client netip.Prefix, limits FailureLimits, now time.Time) (enough bool) {
	r.recent = slices.DeleteFunc(r.recent, func(old reset) bool { return now.Sub(old.at) >= limits.Duration })
	if len(r.recent) == 0 {
		r.kept = 1 // the one that was reset
	}
	r.kept = max(0, r.kept-1) // some may be older
	alone := client == r.last && now.Sub(r.othersAt) >= limits.Duration
	if alone || !slices.ContainsFunc(r.recent, func(old reset) bool { return old.client == client }) {
		r.recent = append(r.recent, reset{client, now})
	}
	if len(r.recent) > max(limits.Max, mostResets) {
		r.recent = r.recent[1:]
	}
	return len(r.recent) >= limits.Max && r.kept <= len(r.recent)
}

// AtOnce is how soon after it was opened a tunnel is reset that should not have been opened.
const AtOnce = time.Second

// WasLeft notes that the tunnel of a client was over so soon, and not because the upstream has
// reset it: it says nothing.
func (t *Table) WasLeft(f *Failures, client netip.Prefix) {
	if f == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.doubt.resets.kept = max(0, f.doubt.resets.kept-1)
	if f.doubt.proof == client {
		f.doubt.proving = false
	}
}

// mostDoublings bounds how much longer the pauses get, as each trial costs a client its tunnel.
const mostDoublings = 4

// WasReset notes that an upstream has reset the tunnel of a client so soon, and before the
// client has sent anything. It reports whether the upstream is doubtful because of that, and
// was not before.
func (t *Table) WasReset(f *Failures, client netip.Prefix) (isNew bool) {
	if f == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	d, now := &f.doubt, time.Now()
	enough := d.resets.note(client, f.key.limits, now)
	switch {
	case d.is && d.proving && d.proof == client:
		d.vain = min(d.vain+1, mostDoublings)
		d.proving, d.tryAt = false, now.Add(f.key.limits.Duration<<d.vain)
		f.awaitTrialLocked()
	case !d.is && enough && t.convictLocked(f):
		d.byReset = true
		return true
	}
	return false
}

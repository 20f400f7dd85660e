package limit

import "time"

// Rate lets so many handshakes begin a second, and some at once where few have come
// before: a token bucket, as the one time by which it would be full (GCRA).
type Rate struct {
	interval time.Duration // between two handshakes
	slack    time.Duration // how early one may be
	due      time.Time     // when the next one is due if they come evenly
}

// NewRate returns a Rate of perSecond handshakes a second, of which burst may come at once.
// Both are at least 1 thousandth and 1.
func NewRate(perSecond float64, burst int) *Rate {
	interval := time.Duration(float64(time.Second) / max(perSecond, 0.001))
	return &Rate{interval: interval, slack: time.Duration(max(burst, 1)-1) * interval}
}

// Allows reports whether a handshake may begin now.
func (r *Rate) Allows(now time.Time) bool { return !now.Before(r.Next(now)) }

// Take counts a handshake that begins now.
func (r *Rate) Take(now time.Time) {
	if r.due.Before(now) {
		r.due = now
	}
	r.due = r.due.Add(r.interval)
}

// IsIdle reports whether r is as a new one.
func (r *Rate) IsIdle(now time.Time) bool { return !r.due.After(now) }

// Next is when the next handshake may begin: now, or later.
func (r *Rate) Next(now time.Time) time.Time {
	if next := r.due.Add(-r.slack); next.After(now) {
		return next
	}
	return now
}

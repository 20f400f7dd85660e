package tunnel

import (
	"math"
	"sync/atomic"
	"time"
)

// Deadline is a time at which a tunnel ends. Of several, the earliest counts.
type Deadline struct {
	// At is by the registry's Now, so that clocks that are set move nothing.
	At     time.Time
	Reason Reason
	// Code and Text are for the client's Close frame.
	Code uint16
	Text string
	// Spread is how much later than At this tunnel ends, so that those with the same
	// time do not end together.
	Spread time.Duration

	since time.Time // when the tunnel was opened, by the registry's Now
}

func (d *Deadline) end() time.Time { return d.At.Add(d.Spread) }

// Limit adds a deadline to a tunnel.
func (t *Tunnel) Limit(d Deadline) {
	d.since = t.live.Now()
	t.limit(d)
	t.touch()
}

func (t *Tunnel) limit(d Deadline) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := []Deadline{d}
	if old := t.deadlines.Load(); old != nil {
		all = append(all, *old...)
	}
	t.deadlines.Store(&all)
}

// earliest returns the deadline that counts, if there is one.
func (t *Tunnel) earliest() (earliest Deadline, is bool) {
	all := t.deadlines.Load()
	if all == nil {
		return earliest, false
	}
	for i, d := range *all {
		if i == 0 || d.end().Before(earliest.end()) {
			earliest = d
		}
	}
	return earliest, true
}

// Renew has the tunnel expire later: at a time by the registry's Now, but no later than
// when it has been open for longest; zero means no such limit. It reports whether that
// changes anything: nothing expires earlier than it would, and what does not expire
// stays so.
func (t *Tunnel) Renew(at time.Time, longest time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.deadlines.Load()
	if all == nil || !t.IsOpen() {
		return false
	}
	renewed, later := make([]Deadline, 0, len(*all)), false
	for _, d := range *all {
		if d.Reason == Expired {
			until := at
			if limit := d.since.Add(longest - d.Spread); longest > 0 && until.After(limit) {
				until = limit
			}
			if until.After(d.At) {
				d.At, later = until, true
			}
		}
		renewed = append(renewed, d)
	}
	if later {
		t.deadlines.Store(&renewed)
	}
	return later
}

// RenewFor is Renew by how much time is left from now on.
func (t *Tunnel) RenewFor(left, longest time.Duration) bool {
	return t.Renew(t.live.Now().Add(left), longest)
}

// expires is when the tunnel expires, by the clock on the wall; zero means never. now is
// the time by that clock.
func (t *Tunnel) expires(now time.Time, slept time.Duration) time.Time {
	all := t.deadlines.Load()
	if all == nil {
		return time.Time{}
	}
	for _, d := range *all {
		if d.Reason == Expired {
			return now.Add(d.At.Sub(now.Add(slept)))
		}
	}
	return time.Time{}
}

// rateTime is over how long rates are taken: what was longer ago counts less and less.
const rateTime = 10 * time.Second

// rates are sums of bytes and messages of which each second takes a part away. They
// cost nothing while nothing happens: whoever reads them knows how long that is.
type rates struct {
	sums atomic.Uint64 // two float32, of which the upper one is the bytes
}

func (r *rates) note(since time.Duration, bytes, messages uint64) {
	b, m := r.load()
	part := fading(since)
	b, m = b*part+float64(bytes), m*part+float64(messages)
	r.sums.Store(uint64(math.Float32bits(float32(b)))<<32 | uint64(math.Float32bits(float32(m))))
}

func (r *rates) load() (bytes, messages float64) {
	sums := r.sums.Load()
	return float64(math.Float32frombits(uint32(sums >> 32))), float64(math.Float32frombits(uint32(sums)))
}

// now returns the rates per second. since is how long ago note was called last.
func (r *rates) now(since time.Duration) (bytes, messages float64) {
	b, m := r.load()
	part := fading(since) / rateTime.Seconds()
	return b * part, m * part
}

// fading is what part is left of a sum after a time.
func fading(after time.Duration) float64 {
	return math.Exp(-max(0, after).Seconds() / rateTime.Seconds())
}

package limit

import "time"

const (
	meterSeconds = 10
	mostRetry    = 5 * time.Minute // what was measured says nothing about later
	leastRate    = 1.0             // a second, so that a stop of the upstream sends nobody away for hours
)

// RetryAfter tells those that cannot be served when to come again, so that they come one
// after the other, and somewhat more slowly than they are served.
type RetryAfter struct {
	slot   time.Time // of the last one that was told
	counts [meterSeconds]int
	second int64 // the newest in counts, since 1970
}

// Served counts a handshake that has begun.
func (r *RetryAfter) Served(now time.Time) {
	r.turn(now)
	r.counts[r.second%meterSeconds]++
}

// After is how long the next one should wait. What random is for is that those who read
// whole seconds do not come together: it is from 0 to less than 1.
func (r *RetryAfter) After(now time.Time, random float64) time.Duration {
	gap := time.Duration(float64(time.Second) / (0.9 * r.Rate(now)))
	r.slot = later(r.slot, now).Add(gap)
	if latest := now.Add(mostRetry); r.slot.After(latest) {
		r.slot = latest
	}
	return r.slot.Sub(now) + time.Duration(random*float64(time.Second))
}

// Rate is how many handshakes began in a second of late, and at least one. The second
// under way does not count, nor do those in which none began before the first.
func (r *RetryAfter) Rate(now time.Time) float64 {
	r.turn(now)
	sum, seconds := 0, 0
	for ago := int64(meterSeconds - 1); ago > 0; ago-- {
		n := r.counts[(r.second-ago)%meterSeconds]
		if sum += n; sum > 0 {
			seconds++
		}
	}
	if sum == 0 { // the first second
		return max(float64(r.counts[r.second%meterSeconds]), leastRate)
	}
	return max(float64(sum)/float64(seconds), leastRate)
}

// turn empties the seconds that have gone by.
func (r *RetryAfter) turn(now time.Time) {
	second := max(now.Unix(), meterSeconds)
	if second-r.second >= meterSeconds {
		r.counts, r.second = [meterSeconds]int{}, second
	}
	for r.second < second {
		r.second++
		r.counts[r.second%meterSeconds] = 0
	}
}

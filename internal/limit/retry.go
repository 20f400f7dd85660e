package limit

import "time"

const (
	meterSeconds = 10
	mostRetry    = 5 * time.Minute // what was measured says nothing about later
	leastRate    = 1.0             // a second, so that a stop of the upstream sends nobody away for hours
	mostTold     = 4096            // clients that are remembered, and as many from before them
)

// RetryAfter tells those that cannot be served when to come again, so that they come one
// after the other, and somewhat more slowly than they are served. A client that is told
// again before its time has its next slot after its own last one, so that it sends nobody
// else away for longer, however often it comes.
type RetryAfter[K comparable] struct {
	slot   time.Time // of the last client that was told
	counts [meterSeconds]int
	second int64 // the newest in counts, since 1970
	// told has the last slots of clients, and before those of clients that were told earlier.
	told, before map[K]time.Time
}

// Served counts a handshake that has begun.
func (r *RetryAfter[K]) Served(now time.Time) {
	r.turn(now)
	r.counts[r.second%meterSeconds]++
}

// After is how long the next one, of a client, should wait. What random is for is that those
// who read whole seconds do not come together: it is from 0 to less than 1.
func (r *RetryAfter[K]) After(now time.Time, client K, random float64) time.Duration {
	gap := time.Duration(float64(time.Second) / (0.9 * r.Rate(now)))
	last, isKnown := r.told[client]
	if !isKnown {
		last = r.before[client]
	}
	var slot time.Time
	if latest := now.Add(mostRetry); last.After(now) {
		slot = earlier(last.Add(gap), latest)
	} else {
		r.slot = earlier(later(r.slot, now).Add(gap), latest)
		slot = r.slot
	}
	r.remember(client, slot)
	return slot.Sub(now) + time.Duration(random*float64(time.Second))
}

// remember notes the slot of a client. If there are many, those that were told first are
// forgotten.
func (r *RetryAfter[K]) remember(client K, slot time.Time) {
	if len(r.told) >= mostTold || r.told == nil {
		r.told, r.before = make(map[K]time.Time), r.told
	}
	r.told[client] = slot
}

// Rate is how many handshakes began in a second of late, and at least one. The second
// under way does not count, nor do those in which none began before the first.
func (r *RetryAfter[K]) Rate(now time.Time) float64 {
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
func (r *RetryAfter[K]) turn(now time.Time) {
	second := max(now.Unix(), meterSeconds)
	if second-r.second >= meterSeconds {
		r.counts, r.second = [meterSeconds]int{}, second
	}
	for r.second < second {
		r.second++
		r.counts[r.second%meterSeconds] = 0
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

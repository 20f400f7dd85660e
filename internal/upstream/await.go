package upstream

import "time"

// leastWait bounds how often those who wait are served as time has passed.
const leastWait = 100 * time.Microsecond

// serve is called when time has made places.
func (t *Table) serve() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, q := range t.queues {
		if q.home == nil || !q.until.IsZero() && !now.Before(q.until) {
			t.concernLocked(q)
		}
	}
	t.serveConcernedLocked()
	t.awaitLocked()
}

// nextLocked is when time may make places for those in a queue.
func (q *queue) nextLocked() time.Time {
	if q.home != nil {
		return q.until
	}
	return q.pool.nextPass
}

// awaitLocked has those who wait served when time makes places. The timer runs only while
// somebody waits for that, or has lately.
func (t *Table) awaitLocked() {
	t.wakes = time.Time{}
	for _, q := range t.queues {
		if at := q.nextLocked(); !at.IsZero() && (t.wakes.IsZero() || at.Before(t.wakes)) {
			t.wakes = at
		}
	}
	t.setTimerLocked()
}

// awaitOneLocked is awaitLocked after one queue has changed. That others need the timer no
// more is found out when it fires.
func (t *Table) awaitOneLocked(q *queue) {
	if at := q.nextLocked(); q.known && !at.IsZero() && (t.wakes.IsZero() || at.Before(t.wakes)) {
		t.wakes = at
		t.setTimerLocked()
	}
}

func (t *Table) setTimerLocked() {
	switch {
	case t.wakes.IsZero() && t.timer != nil:
		t.timer.Stop()
		t.timer = nil
	case t.wakes.IsZero():
	case t.timer == nil:
		t.timer = time.AfterFunc(max(time.Until(t.wakes), leastWait), t.serve)
	default:
		t.timer.Reset(max(time.Until(t.wakes), leastWait))
	}
}

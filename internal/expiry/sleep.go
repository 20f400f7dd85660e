package expiry

import (
	"sync"
	"time"
)

// SleepWatch knows how long the machine has slept since the watch was made, of which
// the clock that Go goes by need not know anything.
type SleepWatch struct {
	told func(time.Duration)

	mu    sync.Mutex // guards what follows
	ahead func() (d time.Duration, ok bool)
	least time.Duration
	last  time.Duration
	slept time.Duration
}

// NewSleepWatch makes a watch. told is called after each sleep that was noticed.
func NewSleepWatch(told func(slept time.Duration)) *SleepWatch {
	return newSleepWatch(told, systemAhead(), leastSleep)
}

// newSleepWatch makes a watch of how far a clock that goes on in a sleep is ahead of one
// that does not. A step of more than least is a sleep. Smaller ones, and those back, are
// how clocks are read, or set.
func newSleepWatch(told func(time.Duration), ahead func() (time.Duration, bool), least time.Duration) *SleepWatch {
	w := &SleepWatch{told: told, ahead: ahead, least: least}
	w.last, _ = ahead()
	return w
}

// Slept returns how long the machine has slept. It never becomes less.
func (w *SleepWatch) Slept() time.Duration {
	total, step := w.look()
	if step > 0 && w.told != nil {
		w.told(step)
	}
	return total
}

func (w *SleepWatch) look() (total, step time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ahead, ok := w.ahead()
	if !ok {
		return w.slept, 0
	}
	step = ahead - w.last
	w.last = ahead
	if step <= w.least {
		return w.slept, 0
	}
	w.slept += step
	return w.slept, step
}

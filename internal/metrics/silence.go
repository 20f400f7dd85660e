package metrics

import (
	"sync"
	"sync/atomic"
	"time"
)

// silentOver are the times of silence of which there are series.
var silentOver = []struct {
	label string
	time  time.Duration
}{{"1m", time.Minute}, {"10m", 10 * time.Minute}, {"1h", longestSilence}}

const (
	longestSilence = time.Hour
	// slotTime is how exactly is known when something has happened, in seconds.
	slotTime = 5
	// ahead is how many slots may be of the time to come, as clocks are set.
	ahead = 4
	// slotCount is enough for the longest silence and what is on its way.
	slotCount = int64(longestSilence/time.Second)/slotTime + 2*ahead
)

// silence counts tunnels by when something has last happened in them, so that nobody has
// to look at them for how many there are in which that was long ago: all but those in
// which it was not.
type silence struct {
	tunnels atomic.Int64
	mu      sync.Mutex // of those who change slots; a leaf
	slots   [slotCount]struct {
		number, tunnels atomic.Int64
	}
}

// move notes that something has happened at another time than before, in seconds since
// 1970. Zero is for a tunnel that has not begun, or has ended.
func (s *silence) move(from, to int64) {
	was, is := from/slotTime, to/slotTime
	if was == is {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if was == 0 {
		s.tunnels.Add(1)
	} else if slot := &s.slots[was%slotCount]; slot.number.Load() == was {
		slot.tunnels.Add(-1)
	}
	if is == 0 {
		s.tunnels.Add(-1)
		return
	}
	slot := &s.slots[is%slotCount]
	if slot.number.Load() != is { // what it had is older than all that is asked for
		slot.tunnels.Store(0)
		slot.number.Store(is)
	}
	slot.tunnels.Add(1)
}

// over is in how many tunnels nothing has happened for so long.
func (s *silence) over(now time.Time, long time.Duration) int64 {
	first := now.Add(-long).Unix()/slotTime + 1
	n := s.tunnels.Load()
	for number := first; number <= now.Unix()/slotTime+ahead; number++ {
		if slot := &s.slots[number%slotCount]; slot.number.Load() == number {
			n -= slot.tunnels.Load()
		}
	}
	return max(0, n)
}

package relay

import (
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Relays are kept together on as few pollers as can serve them: one that finds
// more events at a time has less to do for each, and where a processor is left
// over, Go's scheduler does not take it from pollers that wait. So a new relay
// goes to the first poller that has time for it, and one that has none left hands
// some of those that keep it busy over to another.
//
// Relays that carry bulk are spread evenly instead. They keep a poller busy
// whatever else it serves, and the longer their bytes wait the less of them is
// left in the processor's cache.

const (
	// loadInterval is how long the use of a processor is averaged over.
	loadInterval = 50 * time.Millisecond
	// From fullLoad of a processor on a poller gets no more new relays, from
	// overload on it hands some over, to one with at most spareLoad. So none come
	// back at once.
	fullLoad  = 0.7
	overload  = 0.9
	spareLoad = 0.6
)

// workload is how much of a processor a poller uses.
type workload struct {
	began time.Time     // of the interval
	used  time.Duration // by the thread until then
	// last is that of the last interval, and at its end since start, in
	// nanoseconds.
	last atomic.Uint64
	at   atomic.Int64
}

var loadStart = time.Now()

// measure ends an interval if it is time. It is called by the poller.
func (l *workload) measure() (ended bool) {
	now := time.Now()
	elapsed := now.Sub(l.began)
	if elapsed < loadInterval {
		return false
	}
	used := threadTime()
	l.set(float64(used-l.used)/float64(elapsed), now)
	l.began, l.used = now, used
	return true
}

func (l *workload) set(part float64, now time.Time) {
	l.last.Store(math.Float64bits(part))
	l.at.Store(int64(now.Sub(loadStart)))
}

// now is the load as far as known. A poller that waits does not measure.
func (l *workload) now() float64 {
	part := math.Float64frombits(l.last.Load())
	age := time.Since(loadStart) - time.Duration(l.at.Load())
	if age <= 2*loadInterval {
		return part
	}
	return part * float64(2*loadInterval) / float64(age)
}

// threadTime is the processor time that the calling thread has had.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0 // only a bug can cause this
	}
	return time.Duration(t.Nano())
}

// homes counts the relays that have got one.
var homes atomic.Uint32

// nextHome returns the poller for the next relay if it carries bulk.
func nextHome() *poller {
	return pollers.all[homes.Add(1)%uint32(len(pollers.all))]
}

// choose returns the poller for a new relay.
func choose(all []*poller) *poller {
	least, lowest := all[0], all[0].load.now()
	for _, p := range all {
		part := p.load.now()
		if part < fullLoad {
			return p
		}
		if part < lowest {
			least, lowest = p, part
		}
	}
	return least
}

// relief returns which poller is to get relays of all[self], or nil if they are
// to stay.
func relief(all []*poller, self int) *poller {
	if all[self].load.now() < overload {
		return nil
	}
	for _, p := range all {
		if p.load.now() <= spareLoad {
			return p
		}
	}
	return nil
}

// movable is a waiter that another poller may have.
type movable interface {
	// leaveTo has p take it over, unless it has a reason to stay. It is called by
	// its poller.
	leaveTo(p *poller)
}

// share hands every second relay of those over that have just had events, if the
// load of the pollers says so. One that keeps the poller busy alone would do so
// elsewhere, too.
func (p *poller) share(events []unix.EpollEvent) {
	if len(p.all) < 2 || !p.load.measure() {
		return
	}
	to := relief(p.all, p.index)
	if to == nil {
		return
	}
	for i := 1; i < len(events); i += 2 {
		if m, ok := p.waiterOf(&events[i]).(movable); ok {
			m.leaveTo(to)
		}
	}
}

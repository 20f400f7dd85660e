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
// half of those that keep it busy over to another. As many as may have an event
// at once, such as a broadcast, are not kept together.
//
// A relay that turns out to carry bulk goes to the next poller in turn. Such
// relays keep a poller busy whatever else it serves, and the longer their bytes
// wait the less of them is left in the processor's cache.

const (
	// loadInterval is how long the use of a processor is averaged over.
	loadInterval = 50 * time.Millisecond
	// From fullLoad of a processor on a poller gets no more new relays, from
	// overload on it hands half of its load over, to one with at most spareLoad.
	// Neither of the two is overloaded by that, nor has the other spare time then.
	fullLoad  = 0.7
	overload  = 0.9
	spareLoad = 0.4
	// mostTogether is how many more relays a poller may have than another one.
	mostTogether = 4096
	// halves is how many bits of a slot there are to take a half by.
	halves = 8
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

// bulkRelays counts the relays that turned out to carry bulk.
var bulkRelays atomic.Uint32

// nextForBulk returns the poller for such a relay.
func (p *poller) nextForBulk() *poller {
	return p.all[bulkRelays.Add(1)%uint32(len(p.all))]
}

// choose returns the poller for a new relay.
func choose(all []*poller) *poller {
	fewest := all[0].waiters.Load()
	for _, p := range all {
		fewest = min(fewest, p.waiters.Load())
	}
	least, lowest := all[0], math.Inf(1)
	for _, p := range all {
		if p.waiters.Load() >= fewest+mostTogether {
			continue
		}
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
	// moveTo has p take it over. It is called by its poller.
	moveTo(p *poller)
}

// share is called with each batch of events. If the load of the pollers says so, it
// hands over half of those that have events, for the next interval: which half is
// told by a bit of their slots, each time another one. Who keeps the poller
// busy alone would do so elsewhere, too.
func (p *poller) share(events []unix.EpollEvent) {
	if len(p.all) < 2 {
		return
	}
	if p.load.measure() {
		p.relief = relief(p.all, p.index)
		p.half = (p.half + 1) % halves
	}
	if p.relief == nil {
		return
	}
	alone := int32(-1)
	for i := range events {
		switch slot := events[i].Fd; {
		case slot < 0 || slot == alone:
		case alone < 0:
			alone = slot
		case slot>>p.half&1 == 1:
			if m, ok := p.waiterOf(&events[i]).(movable); ok {
				m.moveTo(p.relief)
			}
		}
	}
}

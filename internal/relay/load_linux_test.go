package relay

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loaded makes pollers that do nothing, with these loads.
func loaded(parts ...float64) []*poller {
	all := make([]*poller, len(parts))
	for i, part := range parts {
		all[i] = &poller{all: all, index: i}
		all[i].load.set(part, time.Now())
	}
	return all
}

func TestNewRelaysGoWhereThereIsTime(t *testing.T) {
	for _, test := range []struct {
		loads []float64
		want  int
	}{
		{[]float64{0, 0, 0}, 0},
		{[]float64{0.69, 0, 0}, 0},
		{[]float64{0.71, 0, 0}, 1},
		{[]float64{0.95, 0.71, 0.5}, 2},
		{[]float64{0.95, 0.8, 0.9}, 1},
		{[]float64{1}, 0},
	} {
		if got := choose(loaded(test.loads...)).index; got != test.want {
			t.Errorf("with loads of %v poller %d gets the next one, want %d", test.loads, got, test.want)
		}
	}
}

func TestNotTooManyRelaysAreKeptTogether(t *testing.T) {
	for _, test := range []struct {
		loads   []float64
		waiters []int32
		want    int
	}{
		{[]float64{0, 0}, []int32{mostTogether - 1, 0}, 0},
		{[]float64{0, 0}, []int32{mostTogether, 0}, 1},
		{[]float64{0, 0}, []int32{mostTogether, 1}, 0},
		{[]float64{0, 0.8}, []int32{mostTogether, 0}, 1},
		{[]float64{0, 0, 0}, []int32{2 * mostTogether, mostTogether, 0}, 2},
		{[]float64{0.9, 0, 0.8}, []int32{0, mostTogether, 0}, 2},
	} {
		all := loaded(test.loads...)
		for i, n := range test.waiters {
			all[i].waiters.Store(n)
		}
		if got := choose(all).index; got != test.want {
			t.Errorf("with loads of %v and %v relays poller %d gets the next one, want %d",
				test.loads, test.waiters, got, test.want)
		}
	}
}

func TestRelaysLeaveAPollerThatIsBusy(t *testing.T) {
	const nowhere = -1
	for _, test := range []struct {
		loads      []float64
		self, want int
	}{
		{[]float64{0.89, 0}, 0, nowhere},
		{[]float64{0.91, 0}, 0, 1},
		{[]float64{0.91, 0.41}, 0, nowhere},
		{[]float64{0.91, 0.41, 0.39}, 0, 2},
		{[]float64{0.1, 1}, 1, 0},
		{[]float64{1}, 0, nowhere},
	} {
		got := nowhere
		if to := relief(loaded(test.loads...), test.self); to != nil {
			got = to.index
		}
		if got != test.want {
			t.Errorf("with loads of %v relays of poller %d go to %d, want %d", test.loads, test.self, got, test.want)
		}
	}
}

// mover is a waiter that another poller may have.
type mover struct{ to *poller }

func (m *mover) ready(int, uint32) {}

func (m *mover) moveTo(p *poller) { m.to = p }

// stayer is a waiter that no other poller may have.
type stayer struct{}

func (stayer) ready(int, uint32) {}

// overloaded has the poller find out that it has had this much to do since then.
func overloaded(p *poller, used time.Duration) {
	p.load.began = time.Now().Add(-2 * loadInterval)
	p.load.used = threadTime() - 10*used // however long this takes
}

func TestHalfOfThoseWithEventsLeave(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, test := range []struct {
		name  string
		used  time.Duration
		other float64 // the load of the other poller
		most  int     // who leave, of 64 in two batches
	}{
		{"nothing to do", 0, 0, 0},
		{"too much to do", 2 * loadInterval, 0.3, 32},
		{"all have too much to do", 2 * loadInterval, 0.95, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := loaded(0, test.other)[0]
			movers := make([]mover, 64)
			events := make([]unix.EpollEvent, len(movers))
			for i := range movers {
				events[i] = *p.add(&movers[i]).event(0, unix.EPOLLIN)
			}
			for half := range uint8(6) { // that a slot of 64 has
				overloaded(p, test.used)
				p.half = (half + halves - 1) % halves
				p.share(events[:len(events)/2])
				p.share(events[len(events)/2:])
				left := 0
				for i := range movers {
					if movers[i].to == p.all[1] {
						left++
					}
					movers[i].to = nil
				}
				if left < test.most-2 || left > test.most {
					t.Errorf("%d have left, want half of them, %d", left, test.most)
				}
			}
		})
	}
}

func TestNobodyLeavesWhoKeepsThePollerBusyAlone(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := loaded(0, 0)[0]
	p.add(stayer{})
	one, gone := new(mover), new(mover)
	at, left := p.add(one), p.add(gone)
	events := []unix.EpollEvent{
		{Fd: -1, Pad: -1},
		*at.event(0, unix.EPOLLIN),
		*at.event(1, unix.EPOLLIN),
		*left.event(0, unix.EPOLLIN),
		*p.add(stayer{}).event(0, unix.EPOLLIN),
	}
	p.remove(left)
	for half := range uint8(halves) {
		overloaded(p, 2*loadInterval)
		p.half = half
		p.share(events)
	}
	if one.to != nil || gone.to != nil {
		t.Error("somebody has left")
	}
}

// A poller that waits does not measure.
func TestLoadOfLongAgoIsForgotten(t *testing.T) {
	var w workload
	w.set(0.8, time.Now().Add(-10*loadInterval))
	if got := w.now(); got > 0.17 {
		t.Errorf("the load is %.2f, want a fifth of 0.8", got)
	}
}

func TestLoadIsThatOfTheThread(t *testing.T) {
	var busy workload
	done := make(chan struct{})
	go func() { // ends with its thread
		defer close(done)
		runtime.LockOSThread()
		busy.measure()
		for end := threadTime() + loadInterval; threadTime() < end; {
		}
		busy.began = time.Now().Add(-2 * loadInterval)
		busy.measure()
	}()
	<-done
	if got := busy.now(); got <= 0 || got > 0.75 { // less than half if others were busy, too
		t.Errorf("the load is %.2f, want 0.5", got)
	}
}

func TestBulkIsSpreadEvenly(t *testing.T) {
	all := loaded(0, 1, 0.5)
	of := make(map[*poller]int)
	for range 30 {
		of[all[0].nextForBulk()]++
	}
	for _, p := range all {
		if of[p] != 10 {
			t.Errorf("poller %d gets %d of 30 relays, want 10", p.index, of[p])
		}
	}
}

// Otherwise those that carry none would decide where the others go.
func TestRelaysAreSpreadOnceAndOnlyIfTheyCarryBulk(t *testing.T) {
	before := bulkRelays.Load()
	all := openers(t)
	for i := range 8 {
		r := newRig(t, implementations["polled"], all["tcp"], all["tcp"])
		r.start()
		r.client.expectEcho(r.upstream, "hello")
		for range i % 2 * 3 {
			const size = 1 << 20
			sent := r.client.pour(size)
			if want, got := <-sent, <-r.upstream.gather(size); got != want {
				t.Errorf("checksum %#x, want %#x", got, want)
			}
		}
	}
	if got := bulkRelays.Load() - before; got != 4 {
		t.Errorf("%d relays were spread, want those 4 that carry bulk", got)
	}
}

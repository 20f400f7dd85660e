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

func TestRelaysLeaveAPollerThatIsBusy(t *testing.T) {
	const nowhere = -1
	for _, test := range []struct {
		loads      []float64
		self, want int
	}{
		{[]float64{0.89, 0}, 0, nowhere},
		{[]float64{0.91, 0}, 0, 1},
		{[]float64{0.91, 0.61}, 0, nowhere},
		{[]float64{0.91, 0.61, 0.59}, 0, 2},
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

func (m *mover) leaveTo(p *poller) { m.to = p }

// stayer is a waiter that no other poller may have.
type stayer struct{}

func (stayer) ready(int, uint32) {}

func TestEverySecondOneOfThoseWithEventsLeaves(t *testing.T) {
	for _, test := range []struct {
		name    string
		used    time.Duration // of two intervals
		other   float64       // the load of the other poller
		leaving []bool
	}{
		{"nothing to do", 0, 0, []bool{false, false, false, false, false}},
		{"too much to do", 2 * loadInterval, 0.5, []bool{false, true, false, false, false}},
		{"all have too much to do", 2 * loadInterval, 0.95, []bool{false, false, false, false, false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := loaded(0, test.other)
			p := all[0]
			var events []unix.EpollEvent
			var movers []*mover
			for range 5 {
				m := new(mover)
				movers = append(movers, m)
				events = append(events, *p.add(m).event(0, unix.EPOLLIN))
			}
			// The fourth one has left, and what waits last cannot.
			p.remove(place{slot: uint32(events[3].Fd)})
			events = append(events, *p.add(stayer{}).event(0, unix.EPOLLIN))
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			p.load.began = time.Now().Add(-2 * loadInterval)
			p.load.used = threadTime() - 10*test.used // however long this takes
			p.share(events)
			for i, m := range movers {
				want := (*poller)(nil)
				if test.leaving[i] {
					want = all[1]
				}
				if m.to != want {
					t.Errorf("waiter %d was asked to leave to %v, want %v", i, m.to, want)
				}
			}
		})
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

package relay

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The event-driven relay. Both descriptors of a relay belong to one poller, a
// goroutine on a thread of its own that waits for all of its descriptors at
// once, and reads and writes without blocking. An idle relay holds neither a
// goroutine nor a buffer.

const (
	// pollBuffer is the size of the one buffer that a poller reads into.
	pollBuffer = 64 << 10
	// readsPerEvent bounds the work for one descriptor before others get their
	// turn.
	readsPerEvent = 4
	// eventsPerWait is how many events one wait returns at most.
	eventsPerWait = 128
)

// pollers are those of the process, started when first needed. They never end:
// one waits without cost, and starting a thread for each first tunnel after a
// silence would not.
var pollers struct {
	mu  sync.Mutex // guards all
	all []*poller
}

func choosePoller() (*poller, error) {
	pollers.mu.Lock()
	defer pollers.mu.Unlock()
	if pollers.all == nil {
		all, err := newPollers(runtime.GOMAXPROCS(0))
		if err != nil {
			return nil, err // until there are descriptors again
		}
		pollers.all = all
		for _, p := range all {
			go p.run()
		}
	}
	return choose(pollers.all), nil
}

func newPollers(n int) ([]*poller, error) {
	all := make([]*poller, n)
	for i := range all {
		p, err := newPoller(i)
		if err != nil {
			for _, p := range all[:i] {
				err = errors.Join(err, unix.Close(p.epoll), unix.Close(p.event), unix.Close(p.null))
			}
			return nil, err
		}
		p.all, all[i] = all, p
	}
	return all, nil
}

// poller waits for the descriptors of many relays.
type poller struct {
	all          []*poller // also this one
	index        int       // among them
	load         workload
	relief       *poller // gets relays of this one, while it is overloaded
	half         uint8   // which of them
	waiters      atomic.Int32
	epoll, event int
	// buf is read into. It is in use only while one event is handled.
	buf []byte
	// slots are those who wait for events, by the index in their epoll data;
	// free are the indexes of nobody. An index is used again only after the
	// batch of events in which it was given back.
	slots []slot
	free  []uint32
	ended []uint32
	null  int // the null device

	// waits is set while the poller may be waiting, so that it has to be told of
	// errands. Only the first of those who send one does that, and nobody while
	// the poller is at work, such as its own hooks.
	waits   atomic.Bool
	pending atomic.Bool // there are errands
	mu      sync.Mutex  // guards errands
	errands []func()
	spare   []func() // room for them
}

// waiter is who waits for events of up to two descriptors. ready is called by
// the poller; side says which of them it is about.
type waiter interface {
	ready(side int, events uint32)
}

// slot is where a poller finds a waiter. Its generation counts the waiters that
// it had, so that an event for one is not taken for the next one's.
type slot struct {
	waiter     waiter
	generation uint32
}

// place is a slot in the hands of its waiter.
type place struct {
	slot, generation uint32
}

// event is what to register a descriptor with.
func (pl place) event(side int, events uint32) *unix.EpollEvent {
	return &unix.EpollEvent{Events: events, Fd: int32(pl.slot), Pad: int32(pl.generation<<1 | uint32(side))}
}

func newPoller(index int) (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(err, unix.Close(epoll))
	}
	null, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(err, unix.Close(epoll), unix.Close(event))
	}
	p := &poller{index: index, epoll: epoll, event: event, null: null, buf: make([]byte, pollBuffer)}
	err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1, Pad: -1})
	if err != nil {
		return nil, errors.Join(err, unix.Close(epoll), unix.Close(event), unix.Close(null))
	}
	return p, nil
}

// run waits for events and errands for the life of the process.
func (p *poller) run() {
	runtime.LockOSThread()
	events := make([]unix.EpollEvent, eventsPerWait)
	for {
		timeout := -1
		p.waits.Store(true)
		if p.pending.Load() {
			timeout = 0
		}
		n, err := unix.EpollWait(p.epoll, events, timeout)
		p.waits.Store(false)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic("relay: epoll_wait: " + err.Error()) // only a bug can cause this
		}
		n = max(n, 0)
		for i := range n {
			p.handle(&events[i])
		}
		p.share(events[:n])
		p.free = append(p.free, p.ended...)
		p.ended = p.ended[:0]
		p.runErrands()
	}
}

// handle handles one event.
func (p *poller) handle(event *unix.EpollEvent) {
	if event.Fd < 0 {
		var count [8]byte
		_, _ = unix.Read(p.event, count[:]) // resets it; it is readable
		return
	}
	if w := p.waiterOf(event); w != nil {
		w.ready(int(event.Pad&1), event.Events)
	}
}

// waiterOf returns who waits for an event, or nil if that one has left.
func (p *poller) waiterOf(event *unix.EpollEvent) waiter {
	if event.Fd < 0 {
		return nil
	}
	s := &p.slots[event.Fd]
	if s.generation<<1 != uint32(event.Pad)&^1 {
		return nil
	}
	return s.waiter
}

// send has the poller do something, soon and in the order of the calls.
func (p *poller) send(errand func()) {
	p.mu.Lock()
	p.errands = append(p.errands, errand)
	p.mu.Unlock()
	// The poller sets waits and then looks at pending, so one of the two sees
	// what the other has set.
	p.pending.Store(true)
	if !p.waits.Swap(false) {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// It can only fail when the counter is full, and then it is readable.
	_, _ = unix.Write(p.event, one[:])
}

// runErrands does what was sent by now. What that sends is for the next time,
// so that events get their turn.
func (p *poller) runErrands() {
	if !p.pending.Swap(false) {
		return
	}
	p.mu.Lock()
	errands := p.errands
	p.errands, p.spare = p.spare[:0], nil
	p.mu.Unlock()
	for i, errand := range errands {
		errand()
		errands[i] = nil
	}
	if cap(errands) <= eventsPerWait { // not that of a storm
		p.spare = errands
	}
}

// add gives a waiter its place.
func (p *poller) add(w waiter) place {
	if len(p.free) == 0 {
		p.free = append(p.free, uint32(len(p.slots)))
		p.slots = append(p.slots, slot{})
	}
	i := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.slots[i].waiter = w
	p.waiters.Add(1)
	return place{i, p.slots[i].generation}
}

// remove takes it back.
func (p *poller) remove(pl place) {
	p.slots[pl.slot].waiter = nil
	p.slots[pl.slot].generation++
	p.waiters.Add(-1)
	p.ended = append(p.ended, pl.slot)
}

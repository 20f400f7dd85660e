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
	once sync.Once
	all  []*poller
	err  error
	next atomic.Uint32
}

func choosePoller() (*poller, error) {
	pollers.once.Do(func() {
		for range runtime.GOMAXPROCS(0) {
			p, err := newPoller()
			if err != nil {
				pollers.err = err
				return
			}
			pollers.all = append(pollers.all, p)
			go p.run()
		}
	})
	if pollers.err != nil {
		return nil, pollers.err
	}
	return pollers.all[pollers.next.Add(1)%uint32(len(pollers.all))], nil
}

// poller waits for the descriptors of many relays.
type poller struct {
	epoll, event int
	// buf is read into. It is in use only while one event is handled.
	buf []byte
	// slots are the relays, by the index in their epoll data; free are the
	// indexes without one. An index is used again only after the batch of
	// events in which its relay ended, so none of that batch can be taken for
	// the next one's.
	slots []*polled
	free  []uint32
	ended []uint32

	mu       sync.Mutex // guards what follows
	errands  []errand
	signaled bool // the poller is about to look at errands
}

// errand asks the poller that owns a relay to do something with it.
type errand struct {
	relay *polled
	do    func(*polled)
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(err, unix.Close(epoll))
	}
	p := &poller{epoll: epoll, event: event, buf: make([]byte, pollBuffer)}
	err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1, Pad: -1})
	if err != nil {
		return nil, errors.Join(err, unix.Close(epoll), unix.Close(event))
	}
	return p, nil
}

// run waits for events for the life of the process.
func (p *poller) run() {
	runtime.LockOSThread()
	events := make([]unix.EpollEvent, eventsPerWait)
	for {
		n, err := unix.EpollWait(p.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic("relay: epoll_wait: " + err.Error()) // only a bug can cause this
		}
		for i := range max(n, 0) {
			p.handle(&events[i])
		}
		p.free = append(p.free, p.ended...)
		p.ended = p.ended[:0]
	}
}

// handle handles one event. Its data is the index of a slot, and the side of
// the relay there that the descriptor belongs to.
func (p *poller) handle(event *unix.EpollEvent) {
	if event.Fd < 0 {
		p.receive()
		return
	}
	r := p.slots[event.Fd]
	if r == nil {
		return // ended earlier in this batch
	}
	r.ready(int(event.Pad), event.Events)
}

// send has the poller do something with a relay, soon.
func (p *poller) send(r *polled, do func(*polled)) {
	p.mu.Lock()
	p.errands = append(p.errands, errand{r, do})
	signal := !p.signaled
	p.signaled = true
	p.mu.Unlock()
	if !signal {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// It can only fail when the counter is full, and then it is readable.
	_, _ = unix.Write(p.event, one[:])
}

// receive handles the errands that are there.
func (p *poller) receive() {
	var count [8]byte
	_, _ = unix.Read(p.event, count[:]) // resets it; it is readable
	p.mu.Lock()
	errands := p.errands
	p.errands, p.signaled = nil, false
	p.mu.Unlock()
	for _, m := range errands {
		if !m.relay.closed {
			m.do(m.relay)
		}
	}
}

// add gives a relay its slot.
func (p *poller) add(r *polled) {
	if n := len(p.free); n > 0 {
		r.slot = p.free[n-1]
		p.free = p.free[:n-1]
		p.slots[r.slot] = r
		return
	}
	r.slot = uint32(len(p.slots))
	p.slots = append(p.slots, r)
}

// remove takes it back.
func (p *poller) remove(r *polled) {
	p.slots[r.slot] = nil
	p.ended = append(p.ended, r.slot)
}

package relay

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// parkingLot is where the directions of a relay on goroutines wait for their
// sources while nothing comes: a poller watches the descriptor underneath. The
// connection keeps its descriptor, which is used only inside of
// RawConn.Control.
type parkingLot struct {
	poller *poller
	period time.Duration // see busyPeriod
	// sources are nil for a connection whose descriptor does not tell whether
	// a read would return.
	sources [2]parkable
	// known is set when the direction's descriptor was given to the poller. It
	// belongs to the direction's goroutine.
	known [2]bool
	// place belongs to the poller, which takes it back when the relay has left.
	place        place
	placed, left bool
}

// parkable is implemented by connections that may be waited for outside of
// Read. When Socket gets readable, or is closed by its peer, a Read may return;
// as long as it does not, Read returns only what was read from it before.
type parkable interface {
	deadliner
	// Socket returns nil if that does not hold for this connection.
	Socket() syscall.Conn
}

// open finds out which of the connections can be waited for.
func (l *parkingLot) open(client, upstream Conn, period time.Duration) {
	l.period = period
	for i, conn := range []Conn{client, upstream} {
		if c, ok := conn.(parkable); ok && c.Socket() != nil {
			l.sources[i] = c
		}
	}
	if l.sources[0] == nil && l.sources[1] == nil {
		return
	}
	var err error
	if l.poller, err = choosePoller(); err != nil {
		l.sources = [2]parkable{}
	}
}

// watch returns what tells when a direction may be parked.
func (l *parkingLot) watch(d Direction) lull {
	if l.sources[d] == nil {
		return lull{}
	}
	return newLull(l.sources[d], l.period)
}

// park leaves a direction to the poller. It returns true if the caller's
// goroutine has to end.
func (l *parkingLot) park(r *goroutines, d Direction) bool {
	p, first := &r.dirs[d], !l.known[d]
	l.known[d] = true
	p.parked.Store(true) // from here on someone else may have the direction
	if first {
		l.poller.send(func() { l.register(r, d) })
		return true
	}
	if l.control(d, unix.EPOLL_CTL_MOD) == nil {
		return true
	}
	// If someone was faster, that one's goroutine meets the error.
	return !p.parked.CompareAndSwap(true, false)
}

// register gives a descriptor to the poller. It is called by the poller.
func (l *parkingLot) register(r *goroutines, d Direction) {
	if l.left {
		return // aborted as soon as it was parked
	}
	if !l.placed {
		l.place, l.placed = l.poller.add(r), true
	}
	if l.control(d, unix.EPOLL_CTL_ADD) != nil {
		r.unpark(d) // and it will not be parked again, as it is not known
	}
}

// control tells the kernel what to do with a direction's descriptor.
func (l *parkingLot) control(d Direction, op int) error {
	raw, err := l.sources[d].Socket().SyscallConn()
	if err != nil {
		return err
	}
	var event *unix.EpollEvent
	if op != unix.EPOLL_CTL_DEL { // before that the place need not be known yet
		event = l.place.event(int(d), unix.EPOLLIN|unix.EPOLLONESHOT)
	}
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.EpollCtl(l.poller.epoll, op, int(fd), event)
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}

// leave takes back what the poller has of the relay, before its connections are
// closed.
func (l *parkingLot) leave() {
	if !l.known[0] && !l.known[1] {
		return
	}
	for d := range Direction(2) {
		if l.known[d] {
			_ = l.control(d, unix.EPOLL_CTL_DEL) // fails if it was aborted
		}
	}
	l.poller.send(func() {
		l.left = true
		if l.placed {
			l.poller.remove(l.place)
		}
	})
}

// ready implements waiter.
func (r *goroutines) ready(side int, _ uint32) {
	r.unpark(Direction(side))
}

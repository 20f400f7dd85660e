package relay

import (
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mostRefusals is how often in a row a destination may take nothing, though it
	// is said to be writable, before it is left alone for starvedRetry.
	mostRefusals = 3
	starvedRetry = 50 * time.Millisecond
)

// polled is a relay between two sockets that a poller owns. All but its counts
// belongs to the poller's goroutine.
type polled struct {
	hooks Hooks
	place place
	bulk  bool // a read has brought as much as a long frame
	// mu keeps Backlog and GiveUpAfter from using a descriptor that is being closed, and
	// guards what follows for it, and for those who send errands.
	mu     sync.Mutex
	closed bool
	poller *poller
	moves  bool      // to poller, which has not come to it yet
	fds    [2]int    // client, upstream
	armed  [2]uint32 // the events that each is registered for; 0: not registered
	dirs   [2]course
}

// bare is implemented by connections that may be unwrapped: the socket, if
// there is nothing but the socket.
type bare interface {
	Bare() syscall.Conn
}

// startPolled starts an event-driven relay, if both connections are sockets
// without anything around them.
func startPolled(client, upstream Side, hooks Hooks) (Relay, bool) {
	r := &polled{hooks: hooks, fds: [2]int{-1, -1}}
	for i, side := range [...]Side{client, upstream} {
		if !duplicate(side.Conn, &r.fds[i]) {
			r.closeBoth()
			return nil, false
		}
	}
	p, err := choosePoller()
	if err != nil {
		r.closeBoth()
		return nil, false
	}
	r.poller = p
	// The duplicates are all that is needed; a net.Conn costs memory and has a
	// place in Go's own poller.
	_ = client.Conn.Close()
	_ = upstream.Conn.Close()
	p.send(func() {
		r.place = p.add(r)
		r.begin(ClientToUpstream, client.Buffered)
		r.begin(UpstreamToClient, upstream.Buffered)
		r.settle()
	})
	return r, true
}

// duplicate makes to a duplicate of a connection's descriptor, which stays in
// non-blocking mode. It reports whether there is one.
func duplicate(c Conn, to *int) bool {
	b, ok := c.(bare)
	if !ok {
		return false
	}
	socket := b.Bare()
	if socket == nil {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(from uintptr) {
		if fd, err := unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			*to = fd
		}
	})
	return err == nil && *to >= 0
}

// closeBoth closes the descriptors of a relay that does not begin.
func (r *polled) closeBoth() {
	for _, fd := range r.fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (r *polled) Counts(d Direction) (read, taken uint64) {
	c := &r.dirs[d]
	taken = c.taken.Load()
	return c.read.Load(), taken
}

func (r *polled) Backlog(d Direction) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0
	}
	n, err := unix.IoctlGetInt(r.fds[d.Opposite()], unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

func (r *polled) GiveUpAfter(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	for _, fd := range r.fds {
		SetUserTimeout(fd, d)
	}
}

func (r *polled) Wake(d Direction) {
	r.send(func() {
		if r.dirs[d].woken = r.dirs[d].writing(); !r.dirs[d].woken {
			r.inspect(d, nil)
		}
		r.settle()
	})
}

func (r *polled) Abort() {
	r.send(r.abort)
}

func (r *polled) Reset(d Direction) {
	r.send(func() {
		// It fails for a socket that is closed already, by its peer.
		_ = unix.SetsockoptLinger(r.fds[d.Opposite()], unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		r.abort()
	})
}

func (r *polled) abort() {
	for d := range r.dirs {
		r.dirs[d].unseen = nil
		r.fail(Direction(d), net.ErrClosed, false)
		r.dirs[d].ended = true
	}
	r.settle()
}

// send has the poller do something, if the relay has not ended by then.
func (r *polled) send(errand func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.poller
	p.send(func() {
		switch {
		case !r.belongsTo(p): // any more, or not yet again
			r.send(errand)
		case !r.closed:
			errand()
		}
	})
}

func (r *polled) belongsTo(p *poller) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.poller == p && !r.moves
}

// spread has the next poller take over a relay that turned out to carry bulk.
func (r *polled) spread() {
	if p := r.poller.nextForBulk(); p != r.poller {
		r.moveTo(p)
	}
}

// moveTo implements movable.
func (r *polled) moveTo(p *poller) {
	for side := range r.fds {
		if !r.closed { // also by a failure to do this
			r.arm(side, 0)
		}
	}
	if r.closed {
		return
	}
	r.poller.remove(r.place)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.poller, r.moves = p, true
	p.send(func() {
		r.arrive()
		r.place = p.add(r)
		r.settle()
	})
}

// arrive ends a move.
func (r *polled) arrive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moves = false
}

// begin passes on what came buffered with a handshake, and what has come since, so that
// one byte (see [Side]) is no packet of its own.
func (r *polled) begin(d Direction, buffered []byte) {
	if len(buffered) == 0 {
		return
	}
	if buf := r.poller.buf; len(buffered) < len(buf) && received(r.fds[d]) > 0 {
		early := copy(buf, buffered)
		n, _ := unix.Read(r.fds[d], buf[early:]) // no error comes before what was received
		buffered = buf[:early+max(n, 0)]
	}
	r.dirs[d].read.Add(uint64(len(buffered)))
	r.inspect(d, buffered)
}

// ready handles that a descriptor can be read, written, or has failed.
func (r *polled) ready(side int, events uint32) {
	out, in, wasBulk := Direction(side).Opposite(), Direction(side), r.bulk
	const broken = unix.EPOLLERR | unix.EPOLLHUP
	if events&(unix.EPOLLOUT|broken) != 0 && r.dirs[out].writing() {
		before := r.dirs[out].unwritten()
		r.flush(out)
		r.noteRefusal(out, before)
	}
	if events&(unix.EPOLLIN|broken) != 0 && r.reading(in) {
		r.receive(in)
	}
	r.settle()
	if r.bulk && !wasBulk {
		r.spread()
	}
}

// noteRefusal looks for a destination that the system calls writable, though it has
// no memory for what is to be written. That may last, and would be reported again
// and again: such a destination is asked once in a starvedRetry only.
func (r *polled) noteRefusal(d Direction, before int) {
	c := &r.dirs[d]
	if !c.writing() || c.unwritten() < before {
		c.refusals = 0
		return
	}
	c.refusals = min(c.refusals+1, mostRefusals)
	if c.starved || c.refusals < mostRefusals {
		return
	}
	c.starved = true
	time.AfterFunc(starvedRetry, func() {
		r.send(func() { c.starved = false; r.settle() })
	})
}

// settle registers both descriptors for what is awaited from them, or ends the
// relay if nothing is.
func (r *polled) settle() {
	if r.closed {
		return
	}
	if r.dirs[0].ended && r.dirs[1].ended && !r.dirs[0].writing() && !r.dirs[1].writing() {
		r.close()
		return
	}
	for side := range r.fds {
		var want uint32
		if r.reading(Direction(side)) {
			want |= unix.EPOLLIN
		}
		if c := &r.dirs[Direction(side).Opposite()]; c.writing() && !c.starved {
			want |= unix.EPOLLOUT
		}
		r.arm(side, want)
	}
}

// arm registers a descriptor. One from which nothing is awaited is taken out of
// the set, as errors and hang-ups are reported without being asked for.
func (r *polled) arm(side int, want uint32) {
	was := r.armed[side]
	if was == want {
		return
	}
	r.armed[side] = want
	op := unix.EPOLL_CTL_MOD
	switch {
	case was == 0:
		op = unix.EPOLL_CTL_ADD
	case want == 0:
		op = unix.EPOLL_CTL_DEL
	}
	if err := unix.EpollCtl(r.poller.epoll, op, r.fds[side], r.place.event(side, want)); err != nil {
		// Out of kernel memory or of watches: the relay cannot go on.
		for d := range r.dirs {
			r.fail(Direction(d), err, false)
			r.dirs[d].ended = true
		}
		r.close()
	}
}

// close closes both descriptors and ends the relay.
func (r *polled) close() {
	if r.closed {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, fd := range r.fds {
		_ = unix.Close(fd) // takes it out of the set
	}
	r.poller.remove(r.place)
	// What the owner does then may block, such as logging.
	go r.hooks.Done()
}

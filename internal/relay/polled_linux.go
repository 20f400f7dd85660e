package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// polled is a relay between two sockets that a poller owns. All but its counts
// belongs to the poller's goroutine.
type polled struct {
	hooks  Hooks
	poller *poller
	place  place
	// mu keeps Backlog from using a descriptor that is being closed, and
	// guards closed for it.
	mu     sync.Mutex
	closed bool
	fds    [2]int    // client, upstream
	armed  [2]uint32 // the events that each is registered for; 0: not registered
	dirs   [2]course
}

// course is one direction of a polled relay. Its source is the descriptor with
// the direction's number, its destination the other.
type course struct {
	read, taken atomic.Uint64
	// rest is what the destination did not take yet. The source is not read
	// meanwhile.
	rest []byte
	// unseen is what was read before a pause and is shown again after it. The
	// source is not read while it is not nil.
	unseen []byte
	// woken is set when the owner wants to be asked as soon as rest is written.
	woken bool
	// shut is set when the destination gets its half-close after rest, and
	// over when it has got it or has failed: nothing is written any more.
	shut, over bool
	// ended is set when the source has ended or failed.
	ended bool
	// end is what to report when rest is written; reported that it was.
	end      End
	reported bool
}

// bare is implemented by connections that may be unwrapped: the socket, if
// there is nothing but the socket.
type bare interface {
	Bare() syscall.Conn
}

// startPolled starts an event-driven relay, if both connections are sockets
// without anything around them.
func startPolled(client, upstream Side, hooks Hooks) (Relay, bool) {
	var fds [2]int
	for i, side := range []Side{client, upstream} {
		fd, ok := duplicate(side.Conn)
		if !ok {
			if i == 1 {
				_ = unix.Close(fds[0])
			}
			return nil, false
		}
		fds[i] = fd
	}
	p, err := choosePoller()
	if err != nil {
		_, _ = unix.Close(fds[0]), unix.Close(fds[1])
		return nil, false
	}
	// The duplicates are all that is needed; a net.Conn costs memory and has a
	// place in Go's own poller.
	_ = client.Conn.Close()
	_ = upstream.Conn.Close()
	r := &polled{hooks: hooks, poller: p, fds: fds}
	p.send(func() {
		r.place = p.add(r)
		r.begin(ClientToUpstream, client.Glued)
		r.begin(UpstreamToClient, upstream.Glued)
		r.settle()
	})
	return r, true
}

// duplicate returns a duplicate of a connection's descriptor, which stays in
// non-blocking mode.
func duplicate(c Conn) (fd int, ok bool) {
	b, ok := c.(bare)
	if !ok {
		return 0, false
	}
	socket := b.Bare()
	if socket == nil {
		return 0, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, err == nil
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

func (r *polled) Wake(d Direction) {
	r.send(func() {
		if r.dirs[d].woken = len(r.dirs[d].rest) > 0; !r.dirs[d].woken {
			r.inspect(d, nil)
		}
		r.settle()
	})
}

func (r *polled) Abort() {
	r.send(func() {
		for d := range r.dirs {
			r.dirs[d].unseen, r.dirs[d].rest = nil, nil
			r.fail(Direction(d), net.ErrClosed, false)
			r.dirs[d].ended = true
		}
		r.settle()
	})
}

// send has the poller do something, if the relay has not ended by then.
func (r *polled) send(errand func()) {
	r.poller.send(func() {
		if !r.closed {
			errand()
		}
	})
}

// begin passes on what came glued to a handshake.
func (r *polled) begin(d Direction, glued []byte) {
	if len(glued) > 0 {
		r.dirs[d].read.Add(uint64(len(glued)))
		r.inspect(d, glued)
	}
}

// ready handles that a descriptor can be read, written, or has failed.
func (r *polled) ready(side int, events uint32) {
	out, in := Direction(side).Opposite(), Direction(side)
	const broken = unix.EPOLLERR | unix.EPOLLHUP
	if events&(unix.EPOLLOUT|broken) != 0 && len(r.dirs[out].rest) > 0 {
		r.flush(out)
	}
	if events&(unix.EPOLLIN|broken) != 0 && r.reading(in) {
		r.receive(in)
	}
	r.settle()
}

// reading reports whether the source of d is to be read.
func (r *polled) reading(d Direction) bool {
	c := &r.dirs[d]
	return !c.ended && len(c.rest) == 0 && c.unseen == nil
}

// receive reads from the source of d until there is nothing left, the
// destination is full, or others have to get their turn.
func (r *polled) receive(d Direction) {
	buf := r.poller.buf
	for range readsPerEvent {
		n, err := unix.Read(r.fds[d], buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			r.sourceEnded(d, err)
			return
		case n == 0:
			r.sourceEnded(d, io.EOF)
			return
		}
		r.dirs[d].read.Add(uint64(n))
		r.inspect(d, buf[:n])
		if n < len(buf) || !r.reading(d) {
			return
		}
	}
}

// inspect does with b what the owner says. It is nil if Wake has asked for it.
func (r *polled) inspect(d Direction, b []byte) {
	c := &r.dirs[d]
	for first := true; (first || len(b) > 0) && !c.over && !c.shut; first = false {
		v := r.hooks.Inspect(d, b)
		r.write(d, b[:v.Pass])
		r.write(d, v.Insert)
		c.shut = c.shut || v.Shut
		b = b[v.Pass+v.Drop:]
		if v.Wait > 0 && b != nil && !c.over && !c.shut {
			r.pause(d, b, v.Wait)
			break
		}
	}
	r.written(d)
}

// pause stops reading for some time, after which b is shown again.
func (r *polled) pause(d Direction, b []byte, wait time.Duration) {
	c := &r.dirs[d]
	c.read.Add(-uint64(len(b)))
	c.unseen = append([]byte{}, b...)
	time.AfterFunc(wait, func() {
		r.send(func() { r.resume(d); r.settle() })
	})
}

// resume ends a pause.
func (r *polled) resume(d Direction) {
	c := &r.dirs[d]
	if b := c.unseen; b != nil {
		c.unseen = nil
		c.read.Add(uint64(len(b)))
		r.inspect(d, b)
	}
}

// write writes b to the destination of d, or keeps what it does not take.
func (r *polled) write(d Direction, b []byte) {
	c := &r.dirs[d]
	if c.over || len(b) == 0 {
		return
	}
	if len(c.rest) == 0 {
		n, err := r.writeSome(d, b)
		if err != nil {
			r.fail(d, err, true)
			return
		}
		b = b[n:]
	}
	if len(b) > 0 {
		c.rest = append(c.rest, b...)
	}
}

// flush goes on writing what the destination did not take before.
func (r *polled) flush(d Direction) {
	c := &r.dirs[d]
	n, err := r.writeSome(d, c.rest)
	if err != nil {
		r.fail(d, err, true)
		return
	}
	if c.rest = c.rest[n:]; len(c.rest) > 0 {
		// Some progress, which a stall has not.
		c.taken.Store(min(c.taken.Load()+uint64(n), c.read.Load()-1))
		return
	}
	c.rest = nil
	r.written(d)
	if c.woken {
		c.woken = false
		r.inspect(d, nil)
	}
}

// written is called when a direction may have nothing left to write.
func (r *polled) written(d Direction) {
	c := &r.dirs[d]
	if len(c.rest) > 0 {
		return
	}
	c.taken.Store(c.read.Load())
	if c.shut && !c.over {
		c.over = true
		err := r.halfClose(d)
		if c.ended && c.end.Err == nil && err != nil {
			c.end = End{Err: err, Writing: true}
		}
		if c.ended {
			r.report(d, c.end)
		}
	}
}

// sourceEnded tells the destination that nothing more will come, and the owner
// why.
func (r *polled) sourceEnded(d Direction, err error) {
	c := &r.dirs[d]
	c.ended = true
	if c.over || c.shut {
		return // shut by the owner, or failed and reported
	}
	c.end = End{Err: endOfStream(err)}
	c.shut = true
	r.written(d)
}

// fail ends writing in direction d because of an error.
func (r *polled) fail(d Direction, err error, writing bool) {
	c := &r.dirs[d]
	c.rest = nil
	wasShut := c.shut && !c.ended
	if c.over {
		return
	}
	c.over = true
	c.taken.Store(c.read.Load())
	if !wasShut {
		r.report(d, End{Err: err, Writing: writing})
	}
}

func (r *polled) report(d Direction, end End) {
	if c := &r.dirs[d]; !c.reported {
		c.reported = true
		r.hooks.Ended(d, end)
	}
}

// writeSome writes without blocking; what the destination does not take is no
// error.
func (r *polled) writeSome(d Direction, b []byte) (int, error) {
	for {
		n, err := unix.Write(r.fds[d.Opposite()], b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		default:
			return max(n, 0), err
		}
	}
}

func (r *polled) halfClose(d Direction) error {
	err := unix.Shutdown(r.fds[d.Opposite()], unix.SHUT_WR)
	if errors.Is(err, unix.ENOTCONN) {
		return nil // the peer is gone, which reading tells
	}
	return err
}

// settle registers both descriptors for what is awaited from them, or ends the
// relay if nothing is.
func (r *polled) settle() {
	if r.closed {
		return
	}
	if r.dirs[0].ended && r.dirs[1].ended && len(r.dirs[0].rest) == 0 && len(r.dirs[1].rest) == 0 {
		r.close()
		return
	}
	for side := range r.fds {
		var want uint32
		if r.reading(Direction(side)) {
			want |= unix.EPOLLIN
		}
		if len(r.dirs[Direction(side).Opposite()].rest) > 0 {
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
	for side, fd := range r.fds {
		if r.armed[side] != 0 {
			_ = unix.EpollCtl(r.poller.epoll, unix.EPOLL_CTL_DEL, fd, nil) // closing does it too
		}
		_ = unix.Close(fd)
	}
	r.poller.remove(r.place)
	// What the owner does then may block, such as logging.
	go r.hooks.Done()
}

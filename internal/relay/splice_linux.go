package relay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Bulk transfer between plain sockets. The bytes of a direction whose frames
// are long go from socket to socket through a pipe, without being copied to
// this process. To see the frame headers between them, they are duplicated
// into a second pipe, again without a copy, and all but the headers is thrown
// away there.

const (
	// longFrame is from which average length on frames are worth it.
	longFrame = 16 << 10
	// headerSize is the length of the longest frame header, and with that how
	// many bytes are shown at a time.
	headerSize = 14
	// fullReads is how many reads in a row have to fill the buffer and end far
	// inside of a frame before bytes are spliced, and shortSplices how many
	// times in a row little may come then before bytes are read again.
	fullReads    = 2
	shortSplices = 4
)

// noteRead looks for a bulk transfer, after a read that was shown.
func (c *course) noteRead(full bool) {
	if !full || c.ahead < longFrame/2 { // the average, if it may end anywhere in a frame
		c.fullReads = 0
		return
	}
	if c.fullReads++; c.fullReads == fullReads {
		c.fullReads, c.splices = 0, shortSplices
	}
}

// noteSplice looks for its end.
func (c *course) noteSplice(n int64) {
	if n >= longFrame {
		c.splices = shortSplices
	} else {
		c.splices--
	}
}

// splice relays what the source has, through pipes. It returns false if there
// is nothing more to get at the moment, or not in this way.
func (r *polled) splice(d Direction) (more bool) {
	c := &r.dirs[d]
	pair := allPipes.take()
	if pair == nil {
		c.splices = 0
		return true
	}
	n, err := retry(func() (int64, error) {
		return unix.Splice(r.fds[d], nil, pair.bytes[1], nil, pipeSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	})
	if n <= 0 {
		allPipes.give(pair)
		return r.spliceFailed(d, err)
	}
	c.noteSplice(n)
	c.read.Add(uint64(n))
	pair.held = int(n)
	r.walk(d, pair)
	goesOn := n == pipeSize
	if pair.shown < pair.held {
		c.splices, goesOn = 0, true
		_ = r.poller.discard(pair, pair.copied) // else it is not used again
	}
	c.pipes = pair
	r.flushPipes(d)
	return goesOn
}

// spliceFailed is called when a splice has brought nothing. It returns whether to
// go on by reading.
func (r *polled) spliceFailed(d Direction, err error) bool {
	c := &r.dirs[d]
	switch {
	case errors.Is(err, unix.EAGAIN):
		// There may be something nevertheless: urgent data, which only a read gets
		// past. It would be reported again and again.
		c.noteSplice(0)
		return false
	case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM),
		errors.Is(err, unix.ENOMEM):
		c.splices = 0 // the end of the stream, or not in this way; a read tells
		return true
	}
	// An error of the socket, which it does not tell twice.
	r.sourceEnded(d, err)
	return false
}

// walk shows the owner the frame headers in a pair of pipes, and notes how much of
// the bytes may be passed on. If that are not all, the others have to be shown
// again, or obey a verdict.
func (r *polled) walk(d Direction, pair *pipes) {
	c := &r.dirs[d]
	if uint64(pair.held) <= c.ahead {
		r.skip(d, pair.held)
		pair.shown = pair.held
		return
	}
	n, err := retry(func() (int64, error) {
		return unix.Tee(pair.bytes[0], pair.copy[1], pair.held, unix.SPLICE_F_NONBLOCK)
	})
	pair.copied = int(max(n, 0))
	if err != nil || pair.copied != pair.held {
		return
	}
	var header [headerSize]byte
	for headers := 0; pair.shown < pair.held; {
		if n := int(min(c.ahead, uint64(pair.held-pair.shown))); n > 0 {
			if r.poller.discard(pair, n) != nil {
				return
			}
			r.skip(d, n)
			pair.shown += n
			continue
		}
		if headers++; headers*longFrame > pair.held+longFrame {
			return // not so long any more
		}
		n, err := unix.Read(pair.copy[0], header[:min(headerSize, pair.held-pair.shown)])
		if err != nil {
			return
		}
		pair.copied -= n
		v := r.hooks.Inspect(d, header[:n])
		if v.Pass < n || len(v.Insert) > 0 || v.Shut || v.Wait > 0 {
			pair.verdict = v
			return
		}
		c.ahead = v.Ahead
		pair.shown += n
	}
}

// skip passes over bytes that need not be shown.
func (r *polled) skip(d Direction, n int) {
	r.dirs[d].ahead -= uint64(n)
	r.hooks.Skip(d, n)
}

// discard throws away n of the copied bytes of a pair.
func (p *poller) discard(pair *pipes, n int) error {
	for n > 0 {
		m, err := retry(func() (int64, error) {
			return unix.Splice(pair.copy[0], nil, p.null, nil, n, unix.SPLICE_F_NONBLOCK)
		})
		if err != nil {
			return err
		}
		if m == 0 {
			return unix.EIO
		}
		n -= int(m)
		pair.copied -= int(m)
	}
	return nil
}

// flushPipes passes on what is in the pipes of a direction, as far as its
// destination takes it.
func (r *polled) flushPipes(d Direction) {
	c := &r.dirs[d]
	for c.pipes != nil && c.pipes.held > 0 {
		switch {
		case len(c.rest) > 0, c.unseen != nil:
			r.written(d)
			return
		case c.pipes.shown == 0:
			r.passPiece(d)
		case !r.passShown(d):
			return
		}
	}
	r.dropPipes(d)
	r.written(d)
}

// passShown passes on bytes that the owner lets pass. It returns false if the
// destination does not take more.
func (r *polled) passShown(d Direction) bool {
	c := &r.dirs[d]
	n, err := retry(func() (int64, error) {
		return unix.Splice(c.pipes.bytes[0], nil, r.fds[d.Opposite()], nil, c.pipes.shown,
			unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	})
	if errors.Is(err, unix.EAGAIN) {
		if allPipes.exhausted() {
			c.splices = 0 // slower than its source, and others may not be
		}
		return false
	}
	if err == nil && n == 0 {
		err = unix.EIO // which would never end
	}
	if err != nil {
		r.fail(d, err, true)
		return false
	}
	c.pipes.shown -= int(n)
	if c.pipes.held -= int(n); c.pipes.held > 0 {
		c.progress(int(n))
	}
	return true
}

// passPiece takes some bytes out of a pipe and goes on as if they had been read.
// The others stay there until the destination has taken these: so many tunnels
// with slow peers cost no more memory than a piece each.
func (r *polled) passPiece(d Direction) {
	c := &r.dirs[d]
	pair := c.pipes
	buf := r.poller.buf[:min(pair.held, pollBuffer)]
	n, err := retry(func() (int64, error) {
		n, err := unix.Read(pair.bytes[0], buf)
		return int64(n), err
	})
	if n <= 0 {
		r.fail(d, errors.Join(err, unix.EIO), false) // only a bug can cause this
		return
	}
	pair.held -= int(n)
	v := pair.verdict
	if pair.verdict = (Verdict{}); v.isZero() {
		r.inspect(d, buf[:n])
	} else {
		r.obey(d, buf[:n], v)
	}
	if c.writing() {
		c.progress(max(0, int(n)-len(c.rest)))
	}
}

// dropPipes ends the use of pipes by a direction.
func (r *polled) dropPipes(d Direction) {
	c := &r.dirs[d]
	if c.pipes == nil {
		return
	}
	if c.unseen != nil {
		c.read.Add(uint64(c.pipes.held)) // the end of the pause will not
	}
	allPipes.give(c.pipes)
	c.pipes = nil
}

// retry calls f until it is not interrupted.
func retry(f func() (int64, error)) (int64, error) {
	for {
		if n, err := f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

package relay

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bulk transfer between plain sockets. The bytes of a direction whose frames
// are long go from socket to socket through a pipe, without being copied to
// this process. To see the frame headers between them, they are duplicated
// into a second pipe, again without a copy, and all but the headers is thrown
// away there.

const (
	// pipeSize is how much goes through a pipe at a time: the most that a pipe
	// of an ordinary user may hold. A quarter of it costs 40 % more.
	pipeSize = 1 << 20
	// maxPipes bounds the pairs of pipes of the process. Where there is none
	// left, bytes are read and written. Together they are what an ordinary user
	// may have, without what others need of it.
	maxPipes = 32
	// pipesRetry is how long no more are made when there cannot be more.
	pipesRetry = time.Minute
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

// pipes are a pair of pipes. Each is its reading and its writing end.
type pipes struct {
	bytes, copy [2]int
	held        int // bytes that are in it
}

func newPipes() (*pipes, error) {
	p := new(pipes)
	if err := newPipe(&p.bytes); err != nil {
		return nil, err
	}
	if err := newPipe(&p.copy); err != nil {
		closePipe(p.bytes)
		return nil, err
	}
	return p, nil
}

func newPipe(ends *[2]int) error {
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		closePipe(*ends)
		return err
	}
	return nil
}

func closePipe(ends [2]int) {
	_, _ = unix.Close(ends[0]), unix.Close(ends[1])
}

// pipePool has the pairs of pipes of all pollers. One is taken for each chunk,
// and kept only while the destination does not take what is in it.
type pipePool struct {
	mu          sync.Mutex // guards what follows
	free        []*pipes
	made, limit int
	limited     time.Time // when the limit turned out to be lower
}

var allPipes = pipePool{limit: maxPipes}

// take returns a pair of empty pipes, or nil if there is none.
func (pool *pipePool) take() *pipes {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if n := len(pool.free); n > 0 {
		pair := pool.free[n-1]
		pool.free = pool.free[:n-1]
		return pair
	}
	if pool.made >= pool.limit && (pool.limit == maxPipes || time.Since(pool.limited) < pipesRetry) {
		return nil
	}
	pair, err := newPipes()
	if err != nil {
		// Out of descriptors, or of what a user may have of pipes: it is not
		// tried with each chunk again.
		pool.limit, pool.limited = pool.made, time.Now()
		return nil
	}
	pool.limit = maxPipes
	pool.made++
	return pair
}

// exhausted tells whether all pairs are in use.
func (pool *pipePool) exhausted() bool {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	return len(pool.free) == 0 && pool.made >= pool.limit
}

// give takes a pair back. One that is not empty is of no more use.
func (pool *pipePool) give(pair *pipes, empty bool) {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if empty {
		pool.free = append(pool.free, pair)
		return
	}
	closePipe(pair.bytes)
	closePipe(pair.copy)
	pool.made--
}

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
		allPipes.give(pair, true)
		return r.spliceFailed(d, err)
	}
	c.noteSplice(n)
	c.read.Add(uint64(n))
	pair.held = int(n)
	shown, v, err := r.walk(d, pair)
	if err != nil || shown < pair.held {
		c.splices = 0
		r.unsplice(d, pair, shown, v)
		return true
	}
	c.pipes = pair
	r.flushPipes(d)
	return n == pipeSize
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

// walk shows the owner the frame headers in a pair of pipes. It returns how
// much of the bytes may be passed on. If that are not all, the verdict is about
// those that follow.
func (r *polled) walk(d Direction, pair *pipes) (shown int, v Verdict, err error) {
	c := &r.dirs[d]
	if uint64(pair.held) <= c.ahead {
		r.skip(d, pair.held)
		return pair.held, v, nil
	}
	n, err := retry(func() (int64, error) {
		return unix.Tee(pair.bytes[0], pair.copy[1], pair.held, unix.SPLICE_F_NONBLOCK)
	})
	if err != nil || int(n) != pair.held {
		return 0, v, errors.Join(err, unix.ENOBUFS)
	}
	var header [headerSize]byte
	for headers := 0; shown < pair.held; {
		if n := int(min(c.ahead, uint64(pair.held-shown))); n > 0 {
			if err := r.poller.discard(pair.copy[0], n); err != nil {
				return shown, v, err
			}
			r.skip(d, n)
			shown += n
			continue
		}
		if headers++; headers*longFrame > pair.held+longFrame {
			return shown, v, nil // not so long any more
		}
		n, err := unix.Read(pair.copy[0], header[:min(headerSize, pair.held-shown)])
		if err != nil {
			return shown, v, err
		}
		v = r.hooks.Inspect(d, header[:n])
		if v.Pass < n || len(v.Insert) > 0 || v.Shut || v.Wait > 0 {
			return shown, v, nil
		}
		c.ahead = v.Ahead
		shown, v = shown+n, Verdict{}
	}
	return shown, v, nil
}

// skip passes over bytes that need not be shown.
func (r *polled) skip(d Direction, n int) {
	r.dirs[d].ahead -= uint64(n)
	r.hooks.Skip(d, n)
}

// discard throws away what is in a pipe.
func (p *poller) discard(pipe, n int) error {
	for n > 0 {
		m, err := retry(func() (int64, error) {
			return unix.Splice(pipe, nil, p.null, nil, n, unix.SPLICE_F_NONBLOCK)
		})
		if err != nil {
			return err
		}
		if m == 0 {
			return unix.EIO
		}
		n -= int(m)
	}
	return nil
}

// unsplice takes the bytes out of a pipe and goes on as if they had been read.
// Of them, the first ones were shown and may pass, and v is about the next.
func (r *polled) unsplice(d Direction, pair *pipes, shown int, v Verdict) {
	b, err := readPipe(pair)
	allPipes.give(pair, false)
	if err != nil {
		r.fail(d, err, false)
		return
	}
	r.write(d, b[:shown])
	if b = b[shown:]; v.isZero() {
		r.inspect(d, b)
		return
	}
	r.obey(d, b, v)
}

func readPipe(pair *pipes) ([]byte, error) {
	b := make([]byte, pair.held)
	for n := 0; n < len(b); {
		m, err := unix.Read(pair.bytes[0], b[n:])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err // only a bug can cause this
		}
		n += max(m, 0)
	}
	return b, nil
}

// flushPipes writes what is in the pipes of a direction.
func (r *polled) flushPipes(d Direction) {
	c := &r.dirs[d]
	for c.pipes.held > 0 {
		n, err := retry(func() (int64, error) {
			return unix.Splice(c.pipes.bytes[0], nil, r.fds[d.Opposite()], nil, c.pipes.held,
				unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		})
		if errors.Is(err, unix.EAGAIN) {
			if allPipes.exhausted() {
				c.splices = 0 // slower than its source, and others may not be
			}
			return
		}
		if err == nil && n == 0 {
			err = unix.EIO // which would never end
		}
		if err != nil {
			r.fail(d, err, true)
			return
		}
		c.pipes.held -= int(n)
		if c.pipes.held > 0 {
			c.progress(int(n))
		}
	}
	r.dropPipes(d)
	r.written(d)
}

// dropPipes ends the use of pipes by a direction.
func (r *polled) dropPipes(d Direction) {
	if c := &r.dirs[d]; c.pipes != nil {
		allPipes.give(c.pipes, c.pipes.held == 0)
		c.pipes = nil
	}
}

// retry calls f until it is not interrupted.
func retry(f func() (int64, error)) (int64, error) {
	for {
		if n, err := f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

package relay

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

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
	// pipes hold what follows rest and unseen.
	pipes *pipes
	// ahead is how many of the next bytes need not be shown.
	ahead uint64
	// fullReads counts reads that look like those of a bulk transfer. While one
	// is spliced, splices is how many times in a row little may still come.
	fullReads, splices uint8
	// refusals counts how often in a row the destination could be written to, as the
	// system said, and took nothing. Starved is set while it is not asked again.
	refusals uint8
	starved  bool
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

// reading reports whether the source of d is to be read.
func (r *polled) reading(d Direction) bool {
	c := &r.dirs[d]
	return !c.ended && !c.writing() && c.unseen == nil
}

// writing reports whether the destination has not taken all that it may.
func (c *course) writing() bool {
	return len(c.rest) > 0 || c.pipes != nil && c.unseen == nil
}

// waiting is how many bytes wait for the end of a pause.
func (c *course) waiting() uint64 {
	n := len(c.unseen)
	if c.pipes != nil {
		n += c.pipes.held
	}
	return uint64(n)
}

// unwritten is how many bytes wait for the destination.
func (c *course) unwritten() int {
	n := len(c.rest)
	if c.pipes != nil {
		n += c.pipes.held
	}
	return n
}

// receive reads from the source of d until there is nothing left, the
// destination is full, or others have to get their turn.
func (r *polled) receive(d Direction) {
	buf, c := r.poller.buf, &r.dirs[d]
	for range readsPerEvent {
		if c.splices > 0 && !c.over && !c.shut {
			if !r.splice(d) || !r.reading(d) {
				return
			}
			continue
		}
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
		c.read.Add(uint64(n))
		r.inspect(d, buf[:n])
		r.bulk = r.bulk || n >= longFrame
		c.noteRead(n == len(buf))
		if n < len(buf) || !r.reading(d) {
			return
		}
	}
}

// inspect does with b what the owner says. It is nil if Wake has asked for it.
func (r *polled) inspect(d Direction, b []byte) {
	if c := &r.dirs[d]; c.over || c.shut {
		r.written(d)
		return
	}
	r.obey(d, b, r.hooks.Inspect(d, b))
}

// obey carries out a verdict on b, and those on what it leaves of it.
func (r *polled) obey(d Direction, b []byte, v Verdict) {
	c := &r.dirs[d]
	for {
		c.ahead = v.Ahead
		r.write(d, b[:v.Pass])
		r.write(d, v.Insert)
		c.shut = c.shut || v.Shut
		b = b[v.Pass+v.Drop:]
		if c.over || c.shut {
			break
		}
		if v.Wait > 0 && b != nil {
			r.pause(d, b, v.Wait)
			break
		}
		if len(b) == 0 {
			break
		}
		v = r.hooks.Inspect(d, b)
	}
	r.written(d)
}

// pause stops reading for some time, after which b is shown again.
func (r *polled) pause(d Direction, b []byte, wait time.Duration) {
	c := &r.dirs[d]
	c.unseen = append([]byte{}, b...)
	c.read.Add(-c.waiting())
	time.AfterFunc(wait, func() {
		r.send(func() { r.resume(d); r.settle() })
	})
}

// resume ends a pause.
func (r *polled) resume(d Direction) {
	c := &r.dirs[d]
	if b := c.unseen; b != nil {
		c.read.Add(c.waiting())
		c.unseen = nil
		r.inspect(d, b)
		r.flushPipes(d)
	}
}

// dropUnseen discards what the owner was not shown, as nothing more is passed on. A
// pause has no purpose then, and the source can be read to its end.
func (r *polled) dropUnseen(d Direction) {
	r.dropPipes(d)
	c := &r.dirs[d]
	c.read.Add(c.waiting())
	c.unseen = nil
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
	if len(c.rest) > 0 {
		n, err := r.writeSome(d, c.rest)
		if err != nil {
			r.fail(d, err, true)
			return
		}
		if c.rest = c.rest[n:]; len(c.rest) == 0 {
			c.rest = nil
		}
		if c.writing() {
			c.progress(n)
		}
	}
	r.flushPipes(d)
	r.answerWake(d)
}

// progress counts a part of what is being written, which a stall has not. What was inserted
// is none of what was read.
func (c *course) progress(n int) {
	if read, taken := c.read.Load(), c.taken.Load(); taken < read {
		c.taken.Store(min(taken+uint64(n), read-1))
	}
}

// answerWake lets the owner insert what it wanted to while bytes were written.
func (r *polled) answerWake(d Direction) {
	if c := &r.dirs[d]; c.woken && !c.writing() {
		c.woken = false
		r.inspect(d, nil)
	}
}

// written is called when a direction may have nothing left to write.
func (r *polled) written(d Direction) {
	c := &r.dirs[d]
	if c.shut {
		r.dropUnseen(d)
	}
	if c.writing() {
		return
	}
	c.taken.Store(c.read.Load())
	if c.shut && !c.over {
		c.over = true
		var err error
		if !c.ended || !r.hooks.Resets(d, c.end) {
			err = r.halfClose(d)
		}
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
	r.dropUnseen(d)
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
	if other := &r.dirs[d.Opposite()]; r.dirs[d].ended && other.ended && !other.writing() {
		return nil // both are closed next, which says the same, as nothing is left to read
	}
	err := unix.Shutdown(r.fds[d.Opposite()], unix.SHUT_WR)
	if errors.Is(err, unix.ENOTCONN) {
		return nil // the peer is gone, which reading tells
	}
	return err
}

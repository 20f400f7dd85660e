package relay

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// goroutines is a relay that runs on one goroutine per direction. It serves
// every system and every kind of connection. A direction that waits for
// something else than its turn may be parked: then it has no goroutine.
type goroutines struct {
	hooks Hooks
	dirs  [2]pump
	// running counts the directions that have not ended and the goroutines
	// besides theirs that may use the connections. The one that brings it to
	// zero closes them.
	running atomic.Int32
	aborted atomic.Bool
	lot     parkingLot
	// again tells who serves the client's direction that it is no longer parked; nil if
	// that has goroutines like the other.
	again chan struct{}
}

// pump is one direction.
type pump struct {
	src, dst    Conn
	read, taken atomic.Uint64
	// woken is set while a call of Inspect that Wake has asked for is due.
	woken atomic.Bool
	// parked is set while the direction has no goroutine. Whoever resets it has
	// to start one, which then owns the fields that follow.
	parked atomic.Bool
	// paused tells that it is, or is about to be, because a verdict was to wait.
	paused atomic.Bool
	// unseen is what was read and has to be shown first, if it is not nil.
	unseen []byte

	mu sync.Mutex // held by the writer to dst
	// over is set when nothing may be written to dst any more. Only the writer
	// does that.
	over atomic.Bool
}

// StartServed is [Start] for a client from which the caller's goroutine has to read, as it
// has to stay anyway. The caller has to call serve, which returns when the client's
// direction has ended; the other one may go on for a while.
func StartServed(client, upstream Side, hooks Hooks) (r Relay, serve func()) {
	g := newGoroutines(client, upstream, hooks, periodFor(client.Conn))
	g.again = make(chan struct{}, 1)
	go g.run(UpstreamToClient)
	return g, g.serve
}

// startGoroutines starts a relay on goroutines.
func startGoroutines(client, upstream Side, hooks Hooks) Relay {
	return startParking(client, upstream, hooks, periodFor(client.Conn))
}

// startParking starts one whose directions may be parked when they have been
// silent for a period.
func startParking(client, upstream Side, hooks Hooks, period time.Duration) Relay {
	r := newGoroutines(client, upstream, hooks, period)
	for d := range r.dirs {
		go r.run(Direction(d))
	}
	return r
}

func newGoroutines(client, upstream Side, hooks Hooks, period time.Duration) *goroutines {
	r := &goroutines{hooks: hooks}
	r.dirs[ClientToUpstream].src, r.dirs[ClientToUpstream].dst = client.Conn, upstream.Conn
	r.dirs[UpstreamToClient].src, r.dirs[UpstreamToClient].dst = upstream.Conn, client.Conn
	r.running.Store(2)
	r.lot.open(client.Conn, upstream.Conn, period)
	for d, side := range []Side{client, upstream} {
		if len(side.Buffered) > 0 {
			r.dirs[d].unseen = side.Buffered
		}
	}
	return r
}

func (r *goroutines) Counts(d Direction) (read, taken uint64) {
	p := &r.dirs[d]
	// taken first: it never overtakes read, so the order keeps read >= taken.
	taken = p.taken.Load()
	return p.read.Load(), taken
}

func (r *goroutines) Backlog(d Direction) int {
	if b, ok := r.dirs[d].dst.(Backlogged); ok {
		return b.Backlog()
	}
	return 0
}

func (r *goroutines) GiveUpAfter(d time.Duration) {
	for i := range r.dirs {
		if c, ok := r.dirs[i].src.(Impatient); ok {
			c.GiveUpAfter(d)
		}
	}
}

func (r *goroutines) Wake(d Direction) {
	p := &r.dirs[d]
	p.woken.Store(true)
	if !p.mu.TryLock() {
		return // the present writer sees to it when it is ready
	}
	if !r.enter() {
		p.mu.Unlock()
		return
	}
	go r.wake(d)
}

func (r *goroutines) Abort() {
	r.aborted.Store(true)
	for d := range r.dirs {
		r.dirs[d].src.Abort()
	}
	for d := range r.dirs {
		r.unpark(Direction(d))
	}
}

func (r *goroutines) Reset(d Direction) {
	if dst, ok := r.dirs[d].dst.(Resettable); ok {
		dst.Reset()
	}
	r.Abort()
}

// enter counts another goroutine in, unless the relay is already closing.
func (r *goroutines) enter() bool {
	for {
		n := r.running.Load()
		if n == 0 {
			return false
		}
		if r.running.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave counts a goroutine out; the last one closes.
func (r *goroutines) leave() {
	if r.running.Add(-1) > 0 {
		return
	}
	r.lot.leave()
	// Errors of Close have no one to go to: all bytes that could be passed on
	// have been, and how each direction ended has been reported.
	_ = r.dirs[ClientToUpstream].src.Close()
	_ = r.dirs[UpstreamToClient].src.Close()
	r.hooks.Done()
}

// serve is the life of the client's direction on one goroutine.
func (r *goroutines) serve() {
	for !r.run(ClientToUpstream) {
		<-r.again
	}
}

// run is the life of a direction, up to its end or until it is parked.
func (r *goroutines) run(d Direction) (ended bool) {
	p := &r.dirs[d]
	p.paused.Store(false)
	if p.unseen != nil && r.showUnseen(d) || !r.pump(d) {
		return false
	}
	r.leave()
	return true
}

// showUnseen passes on what is unseen. If that is little, such as the one byte that came
// with a handshake (see [Side]), what has come since goes with it.
func (r *goroutines) showUnseen(d Direction) (paused bool) {
	p := &r.dirs[d]
	b := p.unseen
	p.unseen = nil
	if 0 < len(b) && len(b) < bufferSizes[0] {
		buf := newBuffer()
		defer buf.free()
		n := copy(buf.bytes(), b)
		n += r.lot.readMore(d, p.src, buf.bytes()[n:])
		b = buf.bytes()[:n]
	}
	p.read.Add(uint64(len(b)))
	return r.forward(d, b)
}

// pump relays until the source has ended. It returns false if the direction
// was parked.
func (r *goroutines) pump(d Direction) (ended bool) {
	p := &r.dirs[d]
	if src, ok := p.src.(Awaitable); ok {
		return r.pumpAwaited(d, src)
	}
	buf := newBuffer()
	defer buf.free()
	lull, records := r.lot.watch(d), r.lot.records(d, p.src)
	for {
		n, err := p.src.Read(buf.bytes())
		if err == nil {
			n, err = records.readOn(p.src, buf.bytes(), n, &lull)
		}
		if n > 0 {
			lull.heard = true
			p.read.Add(uint64(n))
			if r.forward(d, buf.bytes()[:n]) {
				return false
			}
		}
		switch {
		case err == nil:
			buf.adapt(n)
		case lull.conn == nil || !errors.Is(err, os.ErrDeadlineExceeded):
			r.sourceEnded(d, err)
			return true
		case lull.over():
			if r.lot.park(r, d) {
				return false
			}
			lull.forget()
		}
	}
}

// pumpAwaited is pump for a source that is waited for without a buffer.
func (r *goroutines) pumpAwaited(d Direction, src Awaitable) (ended bool) {
	p, class := &r.dirs[d], 0
	for {
		err := src.Await()
		if err == nil {
			buf := bufferOf(class)
			var n int
			n, err = p.src.Read(buf.bytes())
			p.read.Add(uint64(n))
			paused := n > 0 && r.forward(d, buf.bytes()[:n])
			buf.adapt(n)
			class = buf.class
			buf.free()
			if paused {
				return false
			}
		}
		if err != nil {
			r.sourceEnded(d, err)
			return true
		}
	}
}

// unpark gives a direction a goroutine again, if it has none.
func (r *goroutines) unpark(d Direction) {
	if !r.dirs[d].parked.CompareAndSwap(true, false) {
		return
	}
	if r.again != nil && d == ClientToUpstream {
		r.again <- struct{}{} // which has room, as there is one for each time of being parked
		return
	}
	go r.run(d)
}

// wake becomes the writer for the time that Wake needs one. It is started with
// the lock held.
func (r *goroutines) wake(d Direction) {
	defer r.leave()
	r.unlock(d)
}

// forward is the writer for b. It returns true if the direction is paused, and
// no longer the caller's.
func (r *goroutines) forward(d Direction, b []byte) (paused bool) {
	p := &r.dirs[d]
	p.mu.Lock()
	rest, wait := r.forwardLocked(d, b)
	r.unlock(d)
	if wait == 0 {
		return false
	}
	p.read.Add(-uint64(len(rest)))
	p.unseen = append([]byte{}, rest...)
	p.paused.Store(true)
	p.parked.Store(true)
	if r.aborted.Load() || p.over.Load() {
		r.unpark(d)
		return true
	}
	// If it fires late, after an Abort or a shut, that ends some other time of
	// being parked early, which does no harm.
	time.AfterFunc(wait, func() { r.unpark(d) })
	return true
}

// unlock ends the time of a writer. Before, it gives the owner the chances to
// insert that were asked for meanwhile.
func (r *goroutines) unlock(d Direction) {
	p := &r.dirs[d]
	for {
		for p.woken.Swap(false) {
			r.forwardLocked(d, nil)
		}
		if p.over.Load() && p.paused.Load() {
			r.unpark(d) // what waits, and all that follows, is to be discarded
		}
		p.mu.Unlock()
		if !p.woken.Load() || !p.mu.TryLock() {
			return
		}
	}
}

// forwardLocked does with b what the owner says. If that is to wait, it returns
// for how long, and what is left of b.
func (r *goroutines) forwardLocked(d Direction, b []byte) (rest []byte, wait time.Duration) {
	p := &r.dirs[d]
	for first := true; (first || len(b) > 0) && !p.over.Load() && !r.aborted.Load(); first = false {
		v := r.hooks.Inspect(d, b)
		if err := p.obey(v, b); err != nil {
			p.over.Store(true)
			r.hooks.Ended(d, End{Err: err, Writing: true})
			break
		}
		b = b[v.Pass+v.Drop:]
		if v.Wait > 0 && !p.over.Load() {
			return b, v.Wait
		}
	}
	// What is left is discarded, so that a source that is being ended can be
	// read to its end.
	p.taken.Add(uint64(len(b)))
	return nil, 0
}

// obey carries out a verdict. The caller holds p.mu.
func (p *pump) obey(v Verdict, b []byte) error {
	if v.Pass > 0 {
		if _, err := p.dst.Write(b[:v.Pass]); err != nil {
			return err
		}
	}
	if len(v.Insert) > 0 {
		if _, err := p.dst.Write(v.Insert); err != nil {
			return err
		}
	}
	p.taken.Add(uint64(v.Pass + v.Drop))
	if v.Shut {
		p.over.Store(true)
		// Where this fails the peer is gone, and has nothing to learn.
		_ = p.dst.CloseWrite()
	}
	return nil
}

// sourceEnded tells the owner that the source has ended, and then the
// destination that nothing more will come: its peer may end its stream in
// return, which must not be reported first.
func (r *goroutines) sourceEnded(d Direction, err error) {
	p := &r.dirs[d]
	p.mu.Lock()
	over := p.over.Swap(true)
	p.mu.Unlock()
	if over {
		return // shut by the owner, or failed and reported
	}
	end := End{Err: endOfStream(err)}
	resets := r.hooks.Resets(d, end)
	r.hooks.Ended(d, end)
	if !resets {
		// Where this fails the peer is gone, which reading from it tells.
		_ = p.dst.CloseWrite()
	}
}

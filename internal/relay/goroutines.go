package relay

import (
	"sync"
	"sync/atomic"
)

// goroutines is a relay that runs on one goroutine per direction. It serves
// every system and every kind of connection.
type goroutines struct {
	hooks Hooks
	dirs  [2]pump
	// running counts the goroutines that may use the connections. The one that
	// brings it to zero closes them.
	running atomic.Int32
}

// pump is one direction.
type pump struct {
	src, dst    Conn
	read, taken atomic.Uint64
	// woken is set while a call of Inspect that Wake has asked for is due.
	woken atomic.Bool

	mu sync.Mutex // held by the writer to dst; guards what follows
	// over is set when nothing may be written to dst any more.
	over bool
}

// startGoroutines starts a relay on goroutines.
func startGoroutines(client, upstream Side, hooks Hooks) Relay {
	r := &goroutines{hooks: hooks}
	r.dirs[ClientToUpstream].src, r.dirs[ClientToUpstream].dst = client.Conn, upstream.Conn
	r.dirs[UpstreamToClient].src, r.dirs[UpstreamToClient].dst = upstream.Conn, client.Conn
	r.running.Store(2)
	go r.run(ClientToUpstream, client.Glued)
	go r.run(UpstreamToClient, upstream.Glued)
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
	r.dirs[ClientToUpstream].src.Abort()
	r.dirs[UpstreamToClient].src.Abort()
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
	// Errors of Close have no one to go to: all bytes that could be passed on
	// have been, and how each direction ended has been reported.
	_ = r.dirs[ClientToUpstream].src.Close()
	_ = r.dirs[UpstreamToClient].src.Close()
	r.hooks.Done()
}

// run is the life of a direction.
func (r *goroutines) run(d Direction, glued []byte) {
	defer r.leave()
	p := &r.dirs[d]
	if len(glued) > 0 {
		p.read.Add(uint64(len(glued)))
		r.forward(d, glued)
	}
	buf := newBuffer()
	defer buf.free()
	for {
		n, err := p.src.Read(buf.bytes())
		if n > 0 {
			p.read.Add(uint64(n))
			r.forward(d, buf.bytes()[:n])
		}
		if err != nil {
			r.sourceEnded(d, err)
			return
		}
		buf.adapt(n)
	}
}

// wake becomes the writer for the time that Wake needs one. It is started with
// the lock held.
func (r *goroutines) wake(d Direction) {
	defer r.leave()
	r.unlock(d)
}

// forward is the writer for b.
func (r *goroutines) forward(d Direction, b []byte) {
	r.dirs[d].mu.Lock()
	r.forwardLocked(d, b)
	r.unlock(d)
}

// unlock ends the time of a writer. Before, it gives the owner the chances to
// insert that were asked for meanwhile.
func (r *goroutines) unlock(d Direction) {
	p := &r.dirs[d]
	for {
		for p.woken.Swap(false) {
			r.forwardLocked(d, nil)
		}
		p.mu.Unlock()
		if !p.woken.Load() || !p.mu.TryLock() {
			return
		}
	}
}

// forwardLocked does with b what the owner says.
func (r *goroutines) forwardLocked(d Direction, b []byte) {
	p := &r.dirs[d]
	for first := true; (first || len(b) > 0) && !p.over; first = false {
		v := r.hooks.Inspect(d, b)
		if err := p.obey(v, b); err != nil {
			p.over = true
			r.hooks.Ended(d, End{Err: err, Writing: true})
			break
		}
		b = b[v.Pass+v.Drop:]
	}
	// What is left is discarded, so that a source that is being ended can be
	// read to its end.
	p.taken.Add(uint64(len(b)))
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
		p.over = true
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
	over := p.over
	p.over = true
	p.mu.Unlock()
	if over {
		return // shut by the owner, or failed and reported
	}
	r.hooks.Ended(d, End{Err: endOfStream(err)})
	// Where this fails the peer is gone, which reading from it tells.
	_ = p.dst.CloseWrite()
}

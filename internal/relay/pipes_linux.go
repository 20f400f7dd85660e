package relay

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

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
)

// pipes are a pair of pipes. Each is its reading and its writing end.
type pipes struct {
	bytes, copy  [2]int
	held, copied int // bytes that are in each
	// shown is how many of the bytes the owner lets pass, and verdict what it says
	// about those that follow, if it has said something.
	shown   int
	verdict Verdict
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
func (pool *pipePool) give(pair *pipes) {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if pair.held == 0 && pair.copied == 0 {
		pool.free = append(pool.free, pair)
		return
	}
	closePipe(pair.bytes)
	closePipe(pair.copy)
	pool.made--
}

package main

import (
	"bufio"
	"container/heap"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// stormPath is echoPath behind a handshake that takes work.
	stormPath = "/storm"
	// Handshakes a second of one upstream, while as many are under way as suit it.
	stormRate = 200
	// stormBest is that number.
	stormBest = 8
	// stormDecay is how many more of them halve what it does.
	stormDecay = 50
)

// stormSpeed is how many handshakes a second an upstream does when n are under way.
func stormSpeed(n int) float64 {
	if n <= stormBest {
		return stormRate * float64(n) / stormBest
	}
	return stormRate / (1 + float64(n-stormBest)/stormDecay)
}

// desk is where an upstream works at handshakes, at all of them at once. It works
// slower the more there are, as one does that runs out of processors, locks or memory.
type desk struct {
	mu      sync.Mutex // guards what follows
	random  *rand.Rand
	given   float64 // work that each of those under way has got since the beginning
	updated time.Time
	jobs    jobHeap
	timer   *time.Timer
}

// job is a handshake under way.
type job struct {
	finish float64 // of given
	answer func()  // called when it is done; must not block
	index  int     // in the heap; -1 if not there any more
}

func newDesk() *desk {
	d := &desk{random: rand.New(rand.NewPCG(1, 1)), updated: time.Now()} //nolint:gosec // a model
	d.timer = time.AfterFunc(time.Hour, d.work)
	d.timer.Stop()
	return d
}

// take begins a handshake. How much work it is differs, 1 on average.
func (d *desk) take(answer func()) *job {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.update()
	j := &job{finish: d.given + d.random.ExpFloat64(), answer: answer}
	heap.Push(&d.jobs, j)
	d.plan()
	return j
}

// drop ends one that nobody waits for any more. It returns false if it was done before.
func (d *desk) drop(j *job) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.update() // which may be when it is done
	if j.index < 0 {
		return false
	}
	heap.Remove(&d.jobs, j.index)
	d.plan()
	return true
}

// work is called when the next one is done.
func (d *desk) work() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.update()
	d.plan()
}

// update gives those under way what is theirs since the last time, and answers the ones
// that are done. It goes by the clock, so it does not matter how late the timer is.
func (d *desk) update() {
	now := time.Now()
	for len(d.jobs) > 0 {
		n := len(d.jobs)
		each := stormSpeed(n) / float64(n)
		next := (d.jobs[0].finish - d.given) / each
		if left := now.Sub(d.updated).Seconds(); next > left {
			d.given += left * each
			break
		}
		d.given = d.jobs[0].finish
		d.updated = d.updated.Add(time.Duration(next * float64(time.Second)))
		heap.Pop(&d.jobs).(*job).answer()
	}
	d.updated = now
}

// plan sets the timer to when the next one is done.
func (d *desk) plan() {
	if len(d.jobs) == 0 {
		d.timer.Stop()
		return
	}
	n := len(d.jobs)
	seconds := (d.jobs[0].finish - d.given) * float64(n) / stormSpeed(n)
	d.timer.Reset(time.Duration(seconds*float64(time.Second)) + 1) // not too early
}

// jobHeap has the one that is done first at its top.
type jobHeap []*job

func (h *jobHeap) Len() int           { return len(*h) }
func (h *jobHeap) Less(i, j int) bool { return (*h)[i].finish < (*h)[j].finish }

func (h *jobHeap) Swap(i, j int) {
	all := *h
	all[i], all[j] = all[j], all[i]
	all[i].index, all[j].index = i, j
}

func (h *jobHeap) Push(x any) {
	j := x.(*job)
	j.index = len(*h)
	*h = append(*h, j)
}

func (h *jobHeap) Pop() any {
	last := len(*h) - 1
	j := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	j.index = -1
	return j
}

// serveStorm answers the handshake when the desk is done with it, unless the proxy has
// gone before, and echoes from then on.
func (d *desk) serveStorm(conn net.Conn, r *bufio.Reader, key string) {
	j := d.take(func() { _ = answerHandshake(conn, key) }) // its reader finds out
	if _, err := r.Peek(1); err != nil && d.drop(j) {
		return
	}
	_ = serveEcho(conn, r)
}

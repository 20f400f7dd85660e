package tunnel

import (
	"container/heap"
	"context"
	"hash/maphash"
	"iter"
	"sync"
	"sync/atomic"
	"time"
)

// shardCount keeps those who open and end tunnels, and those who look at all of
// them, out of each other's way.
const shardCount = 32

// Registry holds the live tunnels. It belongs to no configuration: tunnels
// outlive theirs.
type Registry struct {
	shards  [shardCount]shard
	total   atomic.Int64
	busy    atomic.Int64  // tunnels, and handshakes that may become some
	changes atomic.Uint64 // tunnels that have come and gone
	exit    exit
	http3   http3Servers
	pacer   pacer
	labels  labelIndex
	exiting func() bool  // nil means no
	tellers atomic.Int32 // those who tell of the exit
	slept   func() time.Duration

	began time.Time // since when due is counted
	// sleptBefore is how long the machine had slept in the sweep's last round.
	sleptBefore time.Duration

	mu    sync.Mutex    // guards what follows
	stop  chan struct{} // ends the sweep, which runs while something is to end at the exit
	swept chan struct{} // closed when the newest sweep has ended
}

// NewRegistry makes one for a process. exiting tells whether that is about to exit;
// nil means no.
func NewRegistry(exiting func() bool) *Registry {
	begun, begin := context.WithCancel(context.Background())
	return &Registry{
		exiting: exiting,
		slept:   func() time.Duration { return 0 },
		exit:    exit{begun: begun, begin: begin, over: make(chan struct{})},
		began:   time.Now(),
	}
}

// CountSleep has the time count for deadlines that the machine has slept, which the
// clock that Go goes by may leave out. slept returns how much of it there has been
// so far. It is called by several goroutines, about once a second while there are
// tunnels, and when deadlines are set. It comes before there are tunnels.
func (r *Registry) CountSleep(slept func() time.Duration) { r.slept = slept }

// Now is the time by the clock that deadlines go by.
func (r *Registry) Now() time.Time { return time.Now().Add(r.slept()) }

// shard is a part of the tunnels.
type shard struct {
	mu      sync.Mutex // guards what follows, and for each tunnel where it is there
	tunnels byDue
	// touched are those that the sweep is to look at, and spare is room for them.
	touched, spare []*Tunnel
	_              [64]byte // keeps two of them out of one cache line
}

var shardSeed = maphash.MakeSeed()

func (r *Registry) shard(id string) *shard {
	return &r.shards[maphash.String(shardSeed, id)%shardCount]
}

func (r *Registry) add(t *Tunnel) {
	s := r.shard(t.ID)
	s.mu.Lock()
	t.due = never
	heap.Push(&s.tunnels, t)
	s.touched = append(s.touched, t) // what is due is found out at the first look
	s.mu.Unlock()
	r.labels.add(t)
	r.changes.Add(1)
	r.total.Add(1)
	r.Begin()
}

func (r *Registry) remove(t *Tunnel) {
	s := r.shard(t.ID)
	s.mu.Lock()
	heap.Remove(&s.tunnels, t.index)
	if len(s.tunnels) == 0 {
		s.tunnels, s.touched = nil, nil
	}
	s.mu.Unlock()
	r.labels.remove(t)
	r.changes.Add(1)
	r.total.Add(-1)
	r.Finish()
}

// Begin counts a handshake or a tunnel until it calls finish. An exit that
// begins later waits for it.
func (r *Registry) Begin() {
	if r.busy.Add(1) == 1 {
		r.adjustSweep()
	}
}

// Finish takes back what Begin has counted.
func (r *Registry) Finish() {
	if r.busy.Add(-1) == 0 {
		r.adjustSweep()
	}
}

// Find returns the live tunnel with this id, or nil.
func (r *Registry) Find(id string) *Tunnel {
	s := r.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tunnels {
		if t.ID == id {
			return t
		}
	}
	return nil
}

// Collect returns the live tunnels that wanted accepts, or all if it is nil.
// Only a part of them is locked at a time, and wanted runs without a lock.
func (r *Registry) Collect(wanted func(*Tunnel) bool) []*Tunnel {
	var all, part []*Tunnel
	for i := range r.shards {
		part = r.shards[i].snapshot(part[:0])
		for _, t := range part {
			if wanted == nil || wanted(t) {
				all = append(all, t)
			}
		}
	}
	return all
}

// Snapshots are what is known of the live tunnels that wanted accepts. They are made one
// by one, and neither wanted nor what is done with them runs under a lock.
func (r *Registry) Snapshots(wanted func(*About) bool) iter.Seq[Snapshot] {
	return func(yield func(Snapshot) bool) {
		now, slept := time.Now(), r.slept()
		var part []*Tunnel
		for i := range r.shards {
			part = r.shards[i].snapshot(part[:0])
			for _, t := range part {
				if wanted(&t.About) && !yield(t.snapshot(now, slept)) {
					return
				}
			}
		}
	}
}

// snapshot appends the shard's tunnels to buf.
func (s *shard) snapshot(buf []*Tunnel) []*Tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(buf, s.tunnels...)
}

// InUse counts tunnels, and handshakes that may become some.
func (r *Registry) InUse() int {
	return int(r.busy.Load())
}

// Count counts the live tunnels.
func (r *Registry) Count() int {
	return int(r.total.Load())
}

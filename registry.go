package websocketproxy

import (
	"sync"
	"time"
)

// sweepInterval is the resolution of the tunnels' times.
const sweepInterval = time.Second

// registry holds the live tunnels. It belongs to no configuration: tunnels
// outlive theirs.
type registry struct {
	mu      sync.Mutex // guards what follows, and the index of each tunnel
	tunnels []*tunnel
	changes uint64        // tunnels that have come and gone
	stop    chan struct{} // ends the sweep, which runs while there are tunnels
}

// liveTunnels are those of the process.
var liveTunnels registry

func (r *registry) add(t *tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.index = len(r.tunnels)
	r.tunnels = append(r.tunnels, t)
	r.changes++
	if r.stop == nil {
		r.stop = make(chan struct{})
		go r.sweep(r.stop)
	}
}

func (r *registry) remove(t *tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	last := len(r.tunnels) - 1
	moved := r.tunnels[last]
	r.tunnels[t.index], moved.index = moved, t.index
	r.tunnels[last] = nil
	r.tunnels = r.tunnels[:last]
	if last == 0 {
		close(r.stop)
		r.stop, r.tunnels = nil, nil
	}
}

// sweep checks the times of all tunnels until stop is closed.
func (r *registry) sweep(stop <-chan struct{}) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	var batch []*tunnel
	storm := storm{collected: r.changed(), seen: r.changed()}
	for {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			// Checked outside of the lock: an end takes locks of its own, and
			// the removal that follows takes this one.
			batch = r.snapshot(batch[:0], stop)
			for i, t := range batch {
				t.check(now)
				batch[i] = nil
			}
			if storm.over(r.changed(), len(batch)) {
				collectMemory()
			}
		}
	}
}

// snapshot appends to batch the tunnels that are for the sweep with this stop.
// One that has just been stopped must not get those of its successor.
func (r *registry) snapshot(batch []*tunnel, stop <-chan struct{}) []*tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop != stop {
		return batch
	}
	return append(batch, r.tunnels...)
}

func (r *registry) changed() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changes
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tunnels)
}

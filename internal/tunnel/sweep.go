package tunnel

import (
	"container/heap"
	"math"
	"time"
)

// The sweep looks once a second at the tunnels for which there is a reason: those in
// which something has happened since the last round, those that have something on its
// way, and those of which a time may be over. The first are on their shard's list
// (touched), for the last each shard has its tunnels in a heap, by when that is at the
// earliest. What happens makes that later, which is found out when it has come: so
// neither bytes nor rounds cost anything for it, nor do tunnels in which nothing happens.

const (
	// SweepInterval is the resolution of the tunnels' times.
	SweepInterval = time.Second
	// exitInterval is how often the sweep looks whether the process is about to exit
	// while nobody would tell: where no configuration with this module is loaded any
	// more. Else it does so in its rounds, as each time wakes the process up.
	exitInterval = SweepInterval / 5
	// never is when nothing is due.
	never = time.Duration(math.MaxInt64)
)

// adjustSweep starts or ends the sweep. It goes by the number that there is
// now, as the calls may come in another order than their causes.
func (r *Registry) adjustSweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := r.busy.Load() > 0 || r.http3.count() > 0
	switch {
	case wanted && r.stop == nil:
		previous := r.swept
		r.stop, r.swept = make(chan struct{}), make(chan struct{})
		go r.sweep(r.stop, previous, r.swept)
	case !wanted && r.stop != nil:
		close(r.stop)
		r.stop = nil
	}
}

// sweep makes its rounds until stop is closed. It begins when the previous one has
// ended: what the sweep remembers of a tunnel belongs to one of them at a time.
func (r *Registry) sweep(stop, previous <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	if previous != nil {
		<-previous
	}
	interval := r.exitInterval()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	memory := newHeapReader()
	storms := newStorms(r.changes.Load(), memory.read())
	for since := interval; ; since += interval {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			if r.exiting != nil && r.exiting() {
				r.ShutDown()
			}
			if since >= SweepInterval {
				since = 0
				r.round(now)
				if storms.over(r.changes.Load(), r.Count(), memory.read()) {
					collectMemory()
				}
			}
		}
		if next := r.exitInterval(); next != interval {
			interval = next
			ticker.Reset(interval)
		}
	}
}

// ExitIsTold says that ShutDown is called as soon as the process begins to exit, until
// the function that it returns is called.
func (r *Registry) ExitIsTold() (over func()) {
	r.tellers.Add(1)
	return func() { r.tellers.Add(-1) }
}

// exitInterval is how often the sweep has to look for the exit.
func (r *Registry) exitInterval() time.Duration {
	if r.tellers.Load() > 0 {
		return SweepInterval
	}
	return exitInterval
}

// round looks at the tunnels for which there is a reason, outside of the locks: an end
// takes locks of its own, and the removal that follows takes these. When the machine has
// slept, all deadlines are nearer than was thought.
func (r *Registry) round(now time.Time) {
	slept := r.slept()
	all := slept != r.sleptBefore
	r.sleptBefore = slept
	for i := range r.shards {
		s := &r.shards[i]
		batch := s.take(now.Sub(r.began), all)
		for _, t := range batch {
			t.touched.Store(false) // before looking, so that nothing is missed
			s.schedule(t, t.look(now, slept))
		}
		clear(batch)
		s.giveBack(batch)
	}
}

// take returns the tunnels that are to be looked at, or all.
func (s *shard) take(now time.Duration, all bool) []*Tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.tunnels) > 0 && s.tunnels[0].due <= now {
		t := s.tunnels[0]
		t.due = never
		heap.Fix(&s.tunnels, 0)
		s.touchLocked(t)
	}
	if all {
		for _, t := range s.tunnels {
			s.touchLocked(t)
		}
	}
	batch := s.touched
	s.touched, s.spare = s.spare[:0], nil
	return batch
}

// giveBack gives the room for a list back.
func (s *shard) giveBack(batch []*Tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = batch
}

// touch has the sweep look at the tunnel soon. Whoever calls it for each chunk looks at
// touched before: that is set for as long as the tunnel is on its shard's list.
func (t *Tunnel) touch() {
	if !t.touched.Swap(true) {
		t.live.shard(t.ID).touch(t)
	}
}

// touch puts a tunnel on the list, unless it has left.
func (s *shard) touch(t *Tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.index != nowhere {
		s.touched = append(s.touched, t)
	}
}

func (s *shard) touchLocked(t *Tunnel) {
	if !t.touched.Swap(true) {
		s.touched = append(s.touched, t)
	}
}

// schedule has the sweep look at a tunnel at a time, or before. Only the sweep calls it,
// as only the sweep changes due.
func (s *shard) schedule(t *Tunnel, at time.Duration) {
	if at >= t.due {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.index != nowhere {
		t.due = at
		heap.Fix(&s.tunnels, t.index)
	}
}

// byDue is the tunnels of a shard, a heap by when they are due. It implements
// heap.Interface.
type byDue []*Tunnel

// nowhere is the index of a tunnel that is not there any more.
const nowhere = -1

func (h *byDue) Len() int           { return len(*h) }
func (h *byDue) Less(i, j int) bool { return (*h)[i].due < (*h)[j].due }

func (h *byDue) Swap(i, j int) {
	all := *h
	all[i], all[j] = all[j], all[i]
	all[i].index, all[j].index = i, j
}

func (h *byDue) Push(x any) {
	t, _ := x.(*Tunnel)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *byDue) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	t.index = nowhere
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}

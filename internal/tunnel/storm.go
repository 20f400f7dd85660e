package tunnel

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// Opening and ending many tunnels leaves the process with two to three times
// the memory that is in use: garbage of their handshakes, and what the garbage
// collector keeps for more of it. The runtime collects an idle process every
// two minutes only, and gives memory back hesitantly. Where tunnels are opened
// once and then stay for hours, that would be the size of the process, so when
// a storm of connections is over, memory is collected and given back at once.
// So it is after one of large messages: for the first of a connection crypto/tls
// grows a buffer from record to record, and leaves behind what was too small.
const (
	// stormSize is how many tunnels have to have come or gone, at least, and
	// stormBytes how much has to have been allocated.
	stormSize  = 1000
	stormBytes = 64 << 20
	// stormShare is the part of the live tunnels, or of the live heap, that this has
	// to be too, as the collector looks at all of them.
	stormShare = 2
	// calmSweeps is how long calm has to last, in sweeps: goroutines and
	// buffers of silent tunnels are given up within two seconds.
	calmSweeps = 3
)

// storms notices the end of storms. It belongs to the sweep.
type storms struct {
	tunnels, bytes storm
}

func newStorms(changes uint64, h heapUse) storms {
	return storms{
		tunnels: storm{least: stormSize, collected: changes, seen: changes},
		bytes:   storm{least: stormBytes, collected: h.allocated, seen: h.allocated},
	}
}

// over reports whether a storm has just ended, from the number of tunnels that
// have come and gone until now, of those that live, and from the heap.
func (s *storms) over(changes uint64, live int, h heapUse) bool {
	tunnels := s.tunnels.over(changes, uint64(live))
	bytes := s.bytes.over(h.allocated, h.live)
	return tunnels || bytes
}

// storm is one kind of them.
type storm struct {
	least           uint64 // changes that are worth collecting
	collected, seen uint64 // changes up to the last collection, and sweep
	calm            int    // sweeps since there were many
}

func (s *storm) over(changes, live uint64) bool {
	size, news := changes-s.collected, changes-s.seen
	s.seen = changes
	if news > size/100 {
		s.calm = 0
		return false
	}
	s.calm++
	if s.calm < calmSweeps || size < max(s.least, live/stormShare) {
		return false
	}
	s.collected = changes
	return true
}

// heapUse is what the process has allocated, and what of it the last collection found
// in use, in bytes.
type heapUse struct {
	allocated, live uint64
}

// heapReader asks the runtime, which takes a microsecond.
type heapReader [2]metrics.Sample

func newHeapReader() *heapReader {
	return &heapReader{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
}

func (r *heapReader) read() heapUse {
	metrics.Read(r[:])
	return heapUse{allocated: r[0].Value.Uint64(), live: r[1].Value.Uint64()}
}

var collecting atomic.Bool

// collectMemory gives back what is not needed, in a goroutine of its own: with
// a large heap it takes longer than a sweep may.
func collectMemory() {
	if !collecting.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer collecting.Store(false)
		runtime.GC() // pools keep what they hold through one collection
		debug.FreeOSMemory()
	}()
}

package tunnel

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
)

// Opening and ending many tunnels leaves the process with two to three times
// the memory that is in use: garbage of their handshakes, and what the garbage
// collector keeps for more of it. The runtime collects an idle process every
// two minutes only, and gives memory back hesitantly. Where tunnels are opened
// once and then stay for hours, that would be the size of the process, so when
// a storm of connections is over, memory is collected and given back at once.
const (
	// stormSize is how many tunnels have to have come or gone, at least, and
	// stormShare is the part of the live ones that this has to be too, as the
	// collector looks at all of them.
	stormSize  = 1000
	stormShare = 2
	// calmSweeps is how long calm has to last, in sweeps: goroutines and
	// buffers of silent tunnels are given up within two seconds.
	calmSweeps = 3
)

// storm notices the end of a storm of connections. It belongs to the sweep.
type storm struct {
	collected, seen uint64 // changes up to the last collection, and sweep
	calm            int    // sweeps since there were many
}

// over reports whether a storm has just ended, from the number of tunnels that
// have come and gone until now, and of those that live.
func (s *storm) over(changes uint64, live int) bool {
	size, news := changes-s.collected, changes-s.seen
	s.seen = changes
	if news > size/100 {
		s.calm = 0
		return false
	}
	s.calm++
	if s.calm < calmSweeps || size < max(stormSize, uint64(live/stormShare)) {
		return false
	}
	s.collected = changes
	return true
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

package dashboard

import (
	"slices"
	"time"
)

// Histogram counts durations by buckets, as a classic histogram of Prometheus does, but not
// cumulatively: Counts has one more than Bounds, for what is above all.
type Histogram struct {
	Bounds []time.Duration
	Counts []uint64
}

// since is what has been counted after before.
func (h Histogram) since(before Histogram) Histogram {
	if !slices.Equal(h.Bounds, before.Bounds) {
		return h
	}
	counts := make([]uint64, len(h.Counts))
	for i, n := range h.Counts {
		counts[i] = grown(n, before.Counts[i])
	}
	return Histogram{h.Bounds, counts}
}

// total is how many durations were counted.
func (h Histogram) total() (n uint64) {
	for _, count := range h.Counts {
		n += count
	}
	return n
}

// quantile estimates a duration that the part q of all does not exceed, as
// histogram_quantile of Prometheus does: linearly within its bucket, and the highest
// bound for what is above. It is negative if nothing was counted.
func (h Histogram) quantile(q float64) time.Duration {
	rank := q * float64(h.total())
	if rank == 0 {
		return -1
	}
	seen := 0.0
	for i, count := range h.Counts {
		if seen += float64(count); seen < rank || count == 0 {
			continue
		}
		if i == len(h.Bounds) {
			break
		}
		var low time.Duration
		if i > 0 {
			low = h.Bounds[i-1]
		}
		within := (rank - (seen - float64(count))) / float64(count)
		return low + time.Duration(within*float64(h.Bounds[i]-low))
	}
	if len(h.Bounds) == 0 {
		return -1
	}
	return h.Bounds[len(h.Bounds)-1]
}

package websocketproxy

import "math"

// levelTolerance is how far an upstream may be from the tunnels that it should
// have, as a part of these. The fullest and the emptiest one are then within
// twice that.
const levelTolerance = 0.05

// upstreamLoad is an upstream of a pool as the balancer sees it.
type upstreamLoad struct {
	// tunnels are all of the process, movable those of them that the pool may
	// close.
	tunnels, movable int
	// weight is the upstream's share, relative to the others.
	weight float64
	// most is how many tunnels it may have; zero means no limit.
	most   int
	backup bool
	// closed: it gets no tunnels, and keeps those that it has.
	closed bool
}

// least is how many tunnels stay, whatever is closed.
func (l *upstreamLoad) least() int { return l.tunnels - l.movable }

// room is how many tunnels there may be. A limit that is exceeded already only
// says that there is no free place.
func (l *upstreamLoad) room() int {
	if l.most <= 0 {
		return math.MaxInt
	}
	return max(l.most, l.tunnels)
}

// merge adds another endpoint of the same address.
func (l *upstreamLoad) merge(other upstreamLoad) {
	l.weight += other.weight
	l.backup = l.backup && other.backup
	if l.most > 0 && other.most > 0 {
		l.most = max(l.most, other.most)
	} else {
		l.most = 0
	}
}

// levels compares the tunnels that upstreams have with those that they should
// have.
type levels struct {
	loads []upstreamLoad
	// want is how many tunnels each should have. There are as many in all, and
	// no upstream gets more than it has places. fair is the same if tunnels could
	// be divided.
	want []int
	fair []float64
	// tunnels counts those of the upstreams that are compared, which are those
	// that are not closed, and tooMany those of them that should be elsewhere.
	tunnels, tooMany int
}

// levelsOf finds out where the tunnels of a pool should be, which is where the
// balancer would put them: by weight, on backups only what no other has a place
// for.
func levelsOf(loads []upstreamLoad) *levels {
	v := &levels{loads: loads, want: make([]int, len(loads)), fair: make([]float64, len(loads))}
	var regular, backups []int
	amount, room, staying := 0, 0, 0 // for the regular ones, there, and on backups
	for i := range loads {
		l := &loads[i]
		v.want[i], v.fair[i] = l.tunnels, float64(l.tunnels)
		switch {
		case l.closed:
			continue
		case l.backup:
			backups = append(backups, i)
			amount += l.movable
			staying += l.least()
		default:
			regular = append(regular, i)
			amount += l.tunnels
			room += min(l.room(), math.MaxInt-room)
		}
		v.tunnels += l.tunnels
	}
	v.fill(regular, min(amount, room))
	v.fill(backups, staying+max(0, amount-room))
	for i := range loads {
		v.tooMany += v.excess(i)
	}
	return v
}

// excess is how many tunnels an upstream has too many.
func (v *levels) excess(i int) int { return max(0, v.loads[i].tunnels-v.want[i]) }

// fill sets what some upstreams should have of an amount of tunnels, as level as
// what has to stay and the places allow.
func (v *levels) fill(some []int, amount int) {
	if len(some) == 0 {
		return
	}
	level := v.levelFor(some, amount)
	left := amount
	for _, i := range some {
		v.fair[i] = v.at(i, level)
		v.want[i] = int(v.fair[i] + 1e-6) // what is a whole number but for rounding
		left -= v.want[i]
	}
	for ; left > 0; left-- {
		best := -1
		for _, i := range some {
			if v.want[i] < v.loads[i].room() && (best < 0 || v.before(i, best)) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		v.want[best]++
	}
}

// before reports whether upstream i should have one more rather than j: as
// least_conn chooses, and among equals the one that has it already.
func (v *levels) before(i, j int) bool {
	a := float64(v.want[i]+1) * v.loads[j].weight
	b := float64(v.want[j]+1) * v.loads[i].weight
	if a != b {
		return a < b
	}
	return v.loads[i].tunnels-v.want[i] > v.loads[j].tunnels-v.want[j]
}

// at is how many tunnels upstream i has at a level of tunnels per weight.
func (v *levels) at(i int, level float64) float64 {
	l := &v.loads[i]
	return min(max(level*l.weight, float64(l.least())), float64(l.room()))
}

// levelFor returns the level at which some upstreams have an amount of tunnels
// together, or hardly less.
func (v *levels) levelFor(some []int, amount int) float64 {
	lightest := math.Inf(1)
	for _, i := range some {
		lightest = min(lightest, v.loads[i].weight)
	}
	low, high := 0.0, float64(amount)/lightest
	for range 64 {
		middle, sum := (low+high)/2, 0.0
		for _, i := range some {
			sum += v.at(i, middle)
		}
		if sum <= float64(amount) {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}

// isLevel reports whether nothing is worth to be moved, or nothing can be.
func (v *levels) isLevel() bool {
	if v.tooMany == 0 {
		return true
	}
	for i := range v.loads {
		off := math.Abs(float64(v.loads[i].tunnels - v.want[i]))
		if off > levelTolerance*float64(v.want[i]) {
			return false
		}
	}
	return true
}

// unevenness is the part of the tunnels that should be elsewhere. If some of the
// fullest upstreams' have just gone, it is the same as before.
func (v *levels) unevenness() float64 {
	above := 0.0
	for i := range v.loads {
		above += max(0, float64(v.loads[i].tunnels)-v.fair[i])
	}
	return above / float64(max(1, v.tunnels))
}

// closings returns how many tunnels to close at each upstream, n in all or as
// many as there are too many: at the fullest ones, and only what is too many
// there.
func (v *levels) closings(n int) []int {
	closing := make([]int, len(v.loads))
	for range min(n, v.tooMany) {
		fullest, most := 0, math.Inf(-1)
		for i := range v.loads {
			excess := v.excess(i) - closing[i]
			if above := float64(excess) / v.loads[i].weight; excess > 0 && above > most {
				fullest, most = i, above
			}
		}
		closing[fullest]++
	}
	return closing
}

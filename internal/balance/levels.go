// Package balance says how many tunnels each upstream of a pool should have, and
// which one a key leads to. It is pure: it knows numbers, and neither addresses,
// locks nor clocks.
package balance

import "math"

// levelTolerance is how far an upstream may be from the tunnels that it should
// have, as a part of these. The fullest and the emptiest one are then within
// twice that.
const levelTolerance = 0.05

// Load is an upstream of a pool as the balancer sees it.
type Load struct {
	// Tunnels are all of the process, Movable those of them that the pool may
	// close.
	Tunnels, Movable int
	// Weight is the upstream's share, relative to the others.
	Weight float64
	// Most is how many tunnels it may have; zero means no limit.
	Most   int
	Backup bool
	// Closed: it gets no tunnels, and keeps those that it has.
	Closed bool
}

// least is how many tunnels stay, whatever is closed.
func (l *Load) least() int { return l.Tunnels - l.Movable }

// room is how many tunnels there may be. A limit that is exceeded already only
// says that there is no free place.
func (l *Load) room() int {
	if l.Most <= 0 {
		return math.MaxInt
	}
	return max(l.Most, l.Tunnels)
}

// Merge adds another endpoint of the same address.
func (l *Load) Merge(other Load) {
	l.Weight += other.Weight
	l.Backup = l.Backup && other.Backup
	if l.Most > 0 && other.Most > 0 {
		l.Most = max(l.Most, other.Most)
	} else {
		l.Most = 0
	}
}

// Levels compares the tunnels that upstreams have with those that they should
// have.
type Levels struct {
	loads []Load
	// want is how many tunnels each should have. There are as many in all, and
	// no upstream gets more than it has places. fair is the same if tunnels could
	// be divided.
	want []int
	fair []float64
	// tunnels counts those of the upstreams that are compared, which are those
	// that are not closed, and tooMany those of them that should be elsewhere.
	tunnels, TooMany int
}

// LevelsOf finds out where the tunnels of a pool should be, which is where the
// balancer would put them: by weight, on backups only what no other has a place
// for.
func LevelsOf(loads []Load) *Levels {
	v := &Levels{loads: loads, want: make([]int, len(loads)), fair: make([]float64, len(loads))}
	var regular, backups []int
	amount, room, staying := 0, 0, 0 // for the regular ones, there, and on backups
	for i := range loads {
		l := &loads[i]
		v.want[i], v.fair[i] = l.Tunnels, float64(l.Tunnels)
		switch {
		case l.Closed:
			continue
		case l.Backup:
			backups = append(backups, i)
			amount += l.Movable
			staying += l.least()
		default:
			regular = append(regular, i)
			amount += l.Tunnels
			room += min(l.room(), math.MaxInt-room)
		}
		v.tunnels += l.Tunnels
	}
	v.fill(regular, min(amount, room))
	v.fill(backups, staying+max(0, amount-room))
	for i := range loads {
		v.TooMany += v.excess(i)
	}
	return v
}

// excess is how many tunnels an upstream has too many.
func (v *Levels) excess(i int) int { return max(0, v.loads[i].Tunnels-v.want[i]) }

// IsLong reports whether an upstream has more tunnels than it should have.
func (v *Levels) IsLong(i int) bool { return v.excess(i) > 0 }

// IsShort reports whether an upstream should have more tunnels than it has.
func (v *Levels) IsShort(i int) bool { return v.want[i] > v.loads[i].Tunnels }

// fill sets what some upstreams should have of an amount of tunnels, as level as
// what has to stay and the places allow.
func (v *Levels) fill(some []int, amount int) {
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
func (v *Levels) before(i, j int) bool {
	a := float64(v.want[i]+1) * v.loads[j].Weight
	b := float64(v.want[j]+1) * v.loads[i].Weight
	if a != b {
		return a < b
	}
	return v.loads[i].Tunnels-v.want[i] > v.loads[j].Tunnels-v.want[j]
}

// at is how many tunnels upstream i has at a level of tunnels per weight.
func (v *Levels) at(i int, level float64) float64 {
	l := &v.loads[i]
	return min(max(level*l.Weight, float64(l.least())), float64(l.room()))
}

// levelFor returns the level at which some upstreams have an amount of tunnels
// together, or hardly less.
func (v *Levels) levelFor(some []int, amount int) float64 {
	lightest := math.Inf(1)
	for _, i := range some {
		lightest = min(lightest, v.loads[i].Weight)
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

// IsLevel reports whether nothing is worth to be moved, or nothing can be.
func (v *Levels) IsLevel() bool {
	if v.TooMany == 0 {
		return true
	}
	for i := range v.loads {
		off := math.Abs(float64(v.loads[i].Tunnels - v.want[i]))
		if off > levelTolerance*float64(v.want[i]) {
			return false
		}
	}
	return true
}

// Unevenness is the part of the tunnels that should be elsewhere. If some of the
// fullest upstreams' have just gone, it is the same as before.
func (v *Levels) Unevenness() float64 {
	above := 0.0
	for i := range v.loads {
		above += max(0, float64(v.loads[i].Tunnels)-v.fair[i])
	}
	return above / float64(max(1, v.tunnels))
}

// Closings returns how many tunnels to close at each upstream, n in all or as
// many as there are too many: at the fullest ones, and only what is too many
// there.
func (v *Levels) Closings(n int) []int {
	closing := make([]int, len(v.loads))
	for range min(n, v.TooMany) {
		fullest, most := 0, math.Inf(-1)
		for i := range v.loads {
			excess := v.excess(i) - closing[i]
			if above := float64(excess) / v.loads[i].Weight; excess > 0 && above > most {
				fullest, most = i, above
			}
		}
		closing[fullest]++
	}
	return closing
}

package balance

import (
	"cmp"
	"math/bits"
	"slices"
)

const (
	// fewMembers of a room stay together, however few tunnels the upstreams have,
	// and so many more than its fair share an upstream may have for new rooms.
	fewMembers = 64
	// roomShare of an upstream's fair share is what one room may fill.
	roomShare = 0.25
)

// Rooms counts the live members of rooms at each upstream, and says where the
// next one goes. A room is what has the same key of the hash policy; an upstream
// is known by its seed. A room without members takes no memory, but Go's maps
// keep their size until the last room is empty. The zero value has no rooms yet. Its
// caller has a lock.
type Rooms struct {
	// whole has the rooms that are at one upstream, which are nearly all, and split
	// the others.
	whole map[uint64]place
	split map[uint64][]place // by seed
}

// place is an upstream where a room has members.
type place struct {
	seed    uint64
	members int32
	// left: who comes is to go elsewhere, as those who are here are about to.
	left bool
}

// Len is how many rooms have members.
func (r *Rooms) Len() int { return len(r.whole) + len(r.split) }

// Add counts a member.
func (r *Rooms) Add(key, seed uint64) {
	if places, isSplit := r.split[key]; isSplit {
		i, found := find(places, seed)
		if !found {
			places = slices.Insert(places, i, place{seed: seed})
			r.split[key] = places
		}
		places[i].members++
		return
	}
	p, found := r.whole[key]
	switch {
	case !found:
		if r.whole == nil {
			r.whole = make(map[uint64]place)
		}
		r.whole[key] = place{seed: seed, members: 1}
	case p.seed == seed:
		p.members++
		r.whole[key] = p
	default:
		if r.split == nil {
			r.split = make(map[uint64][]place)
		}
		places := []place{p, {seed: seed, members: 1}}
		slices.SortFunc(places, bySeed)
		r.split[key] = places
		delete(r.whole, key)
	}
}

// Remove counts a member that was added before no more.
func (r *Rooms) Remove(key, seed uint64) {
	places, isSplit := r.split[key]
	if !isSplit {
		p, found := r.whole[key]
		switch {
		case !found || p.seed != seed:
		case p.members > 1:
			p.members--
			r.whole[key] = p
		default:
			delete(r.whole, key)
			if len(r.whole) == 0 {
				r.whole = nil
			}
		}
		return
	}
	i, found := find(places, seed)
	if !found {
		return
	}
	places[i].members--
	if places[i].members > 0 {
		return
	}
	places = slices.Delete(places, i, i+1)
	if len(places) > 1 {
		r.split[key] = places
		return
	}
	delete(r.split, key)
	if len(r.split) == 0 {
		r.split = nil
	}
	if r.whole == nil {
		r.whole = make(map[uint64]place)
	}
	r.whole[key] = places[0]
}

// Leave makes a room's next members go elsewhere, until those that are at an
// upstream have gone. Without it, the first to come back would follow the others.
func (r *Rooms) Leave(key, seed uint64) {
	if places, isSplit := r.split[key]; isSplit {
		if i, found := find(places, seed); found {
			places[i].left = true
		}
		return
	}
	if p, found := r.whole[key]; found && p.seed == seed {
		p.left = true
		r.whole[key] = p
	}
}

func bySeed(a, b place) int { return cmp.Compare(a.seed, b.seed) }

// find returns where a seed is, or should be. Seeds are spread evenly, so it is
// near to where its size says.
func find(places []place, seed uint64) (i int, found bool) {
	near, _ := bits.Mul64(seed, uint64(len(places)))
	i = int(near)
	for i < len(places) && places[i].seed < seed {
		i++
	}
	for i > 0 && places[i-1].seed >= seed {
		i--
	}
	return i, i < len(places) && places[i].seed == seed
}

// Seek is the search for the upstream of one member. It is a value for its
// caller's stack, and good until the rooms change.
type Seek struct {
	// perWeight is the fair share of a weight of 1.
	perWeight, most float64

	// whole and split are where the room is, but for without, and marks has a bit
	// for each seed there, as most upstreams have nobody of it.
	whole   place
	split   []place
	without uint64
	marks   [8]uint64
	// followed has the most members of those that were offered.
	followed place
	at       int
	isFull   bool // for this room

	// open is for the upstreams that may get members of this room. Where a room
	// is so big that there are none, spare has those that may get new rooms.
	open, spare Rank
}

// Fleet is what a search has to know of a pool.
type Fleet struct {
	// Percent of its fair share is up to what an upstream gets new rooms.
	Percent int
	// Tunnels are all that the pool has, also at upstreams that are not offered, and
	// Weights the sum of those that are.
	Tunnels, Weights int
}

// Member begins the search for a member of the room key.
func (r *Rooms) Member(key uint64, f Fleet) Seek {
	s := Seek{
		perWeight: float64(f.Tunnels) / float64(max(1, f.Weights)), most: float64(f.Percent) / 100,
		at: -1, open: RankOf(key), spare: RankOf(key),
	}
	if places, isSplit := r.split[key]; isSplit {
		s.split = places
		for i := range places {
			s.mark(places[i].seed)
		}
	} else if p, found := r.whole[key]; found {
		s.whole = p
		s.mark(p.seed)
	}
	return s
}

// Without is like Member for one of a room that has nobody at an upstream: it tells
// where those who are there would be if they came now.
func (r *Rooms) Without(key, seed uint64, f Fleet) Seek {
	s := r.Member(key, f)
	s.without = seed
	return s
}

func (s *Seek) mark(seed uint64) { s.marks[seed&7] |= 1 << (seed >> 3 & 63) }

func (s *Seek) isMarked(seed uint64) bool { return s.marks[seed&7]>>(seed>>3&63)&1 != 0 }

// MayWin reports whether an upstream has to be offered, as for a Rank.
func (s *Seek) MayWin(seed uint64, weight int) bool {
	return s.marks[seed&7]>>(seed>>3&63)&1 != 0 || unit(mixed(s.open.key^seed)) <= s.open.cost*float64(weight)
}

// Offer adds upstream i, which may get a tunnel, with what it has and a weight of
// at least 1.
func (s *Seek) Offer(i int, seed uint64, weight, tunnels int) {
	var here place
	if s.isMarked(seed) {
		here = s.placeAt(seed)
		if here.members > s.followed.members && !here.left {
			s.followed, s.at, s.isFull = here, i, s.fills(here, weight)
		}
	}
	// Who comes after the first open one cannot be the first spare one either.
	hash := mixed(s.open.key ^ seed)
	if !s.open.before(hash, weight) {
		return
	}
	fair := s.perWeight * float64(weight)
	if float64(tunnels) >= max(s.most*fair, fair+fewMembers) {
		return
	}
	if !here.left && !s.fills(here, weight) {
		s.open.take(i, hash, weight)
	}
	if s.spare.before(hash, weight) {
		s.spare.take(i, hash, weight)
	}
}

// fills reports whether a room has as many members at a place as may follow each
// other there.
func (s *Seek) fills(p place, weight int) bool {
	return float64(p.members) >= max(fewMembers, roomShare*s.perWeight*float64(weight))
}

func (s *Seek) placeAt(seed uint64) place {
	switch {
	case s.without == seed:
	case s.split != nil:
		if i, found := find(s.split, seed); found {
			return s.split[i]
		}
	case s.whole.seed == seed:
		return s.whole
	}
	return place{}
}

// Found returns the i of the upstream to take: where most of the room is, or the
// first in the room's order that has place for it. It is -1 only if none was
// offered, as not all of them have more than their fair share.
func (s *Seek) Found() int {
	switch {
	case s.at >= 0 && !s.isFull:
		return s.at
	case s.open.first >= 0:
		return s.open.first
	}
	return s.spare.first
}

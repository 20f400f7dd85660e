package balance

import (
	"math/rand/v2"
	"runtime"
	"testing"
)

// fleet is a pool whose tunnels belong to rooms.
type fleet struct {
	rooms   *Rooms
	percent int
	nodes   []node
	tunnels int
}

func fleetOf(n, percent int, weights ...int) *fleet {
	return &fleet{rooms: new(Rooms), percent: percent, nodes: nodes(n, weights...)}
}

func (f *fleet) whole() Fleet {
	return Fleet{Percent: f.percent, Tunnels: f.tunnels, Weights: f.weights()}
}

// weights is the sum of those that may get tunnels.
func (f *fleet) weights() int {
	sum := 0
	for i := range f.nodes {
		if !f.nodes[i].gone {
			sum += f.nodes[i].weight
		}
	}
	return sum
}

func (f *fleet) offered(s Seek) int {
	for i := range f.nodes {
		if n := &f.nodes[i]; !n.gone && s.MayWin(n.seed, n.weight) {
			s.Offer(i, n.seed, n.weight, n.tunnels)
		}
	}
	return s.Found()
}

func (f *fleet) find(key uint64) int {
	return f.offered(f.rooms.Member(key, f.whole()))
}

// add counts members of a room at an upstream.
func (f *fleet) add(key uint64, at, members int) {
	for range members {
		f.rooms.Add(key, f.nodes[at].seed)
	}
	f.nodes[at].tunnels += members
	f.tunnels += members
}

func (f *fleet) remove(key uint64, at, members int) {
	for range members {
		f.rooms.Remove(key, f.nodes[at].seed)
	}
	f.nodes[at].tunnels -= members
	f.tunnels -= members
}

// order is where a key's room would be, one after another.
func (f *fleet) order(key uint64) []int {
	left := append([]node(nil), f.nodes...)
	var all []int
	for range left {
		i := firstOf(key, left)
		left[i].gone = true
		all = append(all, i)
	}
	return all
}

func TestRooms(t *testing.T) {
	const key, other = 0x1234, 0x5678
	for name, test := range map[string]struct {
		set  func(f *fleet, order []int)
		want int // the place in the order
	}{
		"a new room":                       {func(*fleet, []int) {}, 0},
		"its first is a little full":       {func(f *fleet, o []int) { f.add(other, o[0], 63) }, 0},
		"its first is too full":            {func(f *fleet, o []int) { f.add(other, o[0], 1000) }, 1},
		"its first two are too full":       {func(f *fleet, o []int) { f.add(other, o[0], 999); f.add(other, o[1], 1000) }, 2},
		"its first is away":                {func(f *fleet, o []int) { f.nodes[o[0]].gone = true }, 1},
		"members follow":                   {func(f *fleet, o []int) { f.add(key, o[2], 1) }, 2},
		"however full it is there":         {func(f *fleet, o []int) { f.add(key, o[2], 1); f.add(other, o[2], 1000) }, 2},
		"to where most are":                {func(f *fleet, o []int) { f.add(key, o[2], 1); f.add(key, o[3], 2) }, 3},
		"of where one may go":              {func(f *fleet, o []int) { f.add(key, o[2], 1); f.add(key, o[3], 2); f.nodes[o[3]].gone = true }, 2},
		"until a room is big":              {func(f *fleet, o []int) { f.add(key, o[2], 63) }, 2},
		"what is big goes on in its order": {func(f *fleet, o []int) { f.add(key, o[2], 64) }, 0},
		"past where it is big too":         {func(f *fleet, o []int) { f.add(key, o[0], 64); f.add(key, o[1], 64) }, 2},
		"big is a part of the fair share":  {func(f *fleet, o []int) { f.add(key, o[2], 99); fill(f, other, 400-1) }, 2},
		"and no more than that":            {func(f *fleet, o []int) { f.add(key, o[2], 120); fill(f, other, 400) }, 0},
		"big wherever it may go":           {func(f *fleet, o []int) { fill(f, key, 300) }, 0},
		"a room leaves":                    {func(f *fleet, o []int) { f.add(key, o[0], 5); f.rooms.Leave(key, f.nodes[o[0]].seed) }, 1},
		"and is followed where it is now": {func(f *fleet, o []int) {
			f.add(key, o[0], 5)
			f.add(key, o[3], 1)
			f.rooms.Leave(key, f.nodes[o[0]].seed)
		}, 3},
		"it has left, and may come again": {func(f *fleet, o []int) {
			f.add(key, o[0], 5)
			f.rooms.Leave(key, f.nodes[o[0]].seed)
			f.remove(key, o[0], 5)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := fleetOf(8, 125, 1)
			order := f.order(key)
			test.set(f, order)
			if got := f.find(key); got != order[test.want] {
				t.Errorf("got upstream %d, want %d of %v", got, order[test.want], order)
			}
		})
	}
}

// fill gives each upstream so many members of a room.
func fill(f *fleet, key uint64, members int) {
	for i := range f.nodes {
		f.add(key, i, members)
	}
}

func TestWithout(t *testing.T) {
	f := fleetOf(8, 125, 1)
	order := f.order(1)
	f.add(1, order[3], 5)
	without := func() int {
		return f.offered(f.rooms.Without(1, f.nodes[order[3]].seed, f.whole()))
	}
	if got := without(); got != order[0] {
		t.Errorf("as a new room: got %d, want %d", got, order[0])
	}
	f.add(1, order[2], 1)
	if got := without(); got != order[2] {
		t.Errorf("one is elsewhere: got %d, want %d", got, order[2])
	}
}

func TestNoUpstreams(t *testing.T) {
	f := fleetOf(0, 125, 1)
	if got := f.find(1); got != -1 {
		t.Errorf("got %d", got)
	}
}

// TestThereIsAlwaysOne: whatever the tunnels are, one of the upstreams that are
// offered has place.
func TestThereIsAlwaysOne(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		f := fleetOf(1+random.IntN(12), 100+random.IntN(50), 1, 3, 256)
		key := random.Uint64()
		for range random.IntN(30) {
			f.add(key+uint64(random.IntN(2)), random.IntN(len(f.nodes)), random.IntN(300))
		}
		for i := range f.nodes[1:] {
			f.nodes[i].gone = random.IntN(3) == 0
		}
		if got := f.find(key); got < 0 || f.nodes[got].gone {
			t.Fatalf("got %d of %+v", got, f.nodes)
		}
	}
}

// TestRoomsCount compares with counts that are simple, and ends with none.
func TestRoomsCount(t *testing.T) {
	type at struct{ key, seed uint64 }
	random := rand.New(rand.NewPCG(7, 8))
	r := new(Rooms)
	counts := make(map[at]int)
	var live []at
	check := func() {
		t.Helper()
		rooms := make(map[uint64]bool)
		for one, n := range counts {
			rooms[one.key] = true
			s := r.Member(one.key, Fleet{})
			if got := s.placeAt(one.seed); int(got.members) != n || !s.isMarked(one.seed) {
				t.Fatalf("%v: got %d members, want %d", one, got.members, n)
			}
		}
		if r.Len() != len(rooms) {
			t.Fatalf("got %d rooms, want %d", r.Len(), len(rooms))
		}
	}
	for step := range 40_000 {
		if len(live) > 0 && (step > 20_000 || random.IntN(2) == 0) {
			i := random.IntN(len(live))
			one := live[i]
			live[i] = live[len(live)-1]
			live = live[:len(live)-1]
			r.Remove(one.key, one.seed)
			if counts[one]--; counts[one] == 0 {
				delete(counts, one)
			}
		} else {
			one := at{uint64(random.IntN(20)), mixed(1 + uint64(random.IntN(5)))}
			live = append(live, one)
			r.Add(one.key, one.seed)
			counts[one]++
		}
		if step%100 == 0 {
			check()
		}
	}
	check()
	r.Remove(1, 2) // nobody
	if len(live) != 0 || r.Len() != 0 || r.whole != nil || r.split != nil {
		t.Errorf("%d members are left, in %d rooms: %v, %v", len(live), r.Len(), r.whole, r.split)
	}
}

// TestMemoryOfRooms: 100,000 of them take some megabytes, and none when they are
// empty.
func TestMemoryOfRooms(t *testing.T) {
	const n = 100_000
	r := new(Rooms)
	before := heap()
	for key := range uint64(n) {
		r.Add(mixed(key), 1)
	}
	each := float64(heap()-before) / n
	t.Logf("%.0f bytes for each room", each)
	if each > 120 {
		t.Errorf("a room takes %.0f bytes", each)
	}
	for key := range uint64(n) {
		r.Remove(mixed(key), 1)
	}
	if left := heap() - before; left > n {
		t.Errorf("%d bytes are left", left)
	}
	runtime.KeepAlive(r)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkRooms(b *testing.B) {
	for name, set := range map[string]func(f *fleet){
		"new":              func(*fleet) {},
		"live":             func(f *fleet) { f.add(1, 500, 10) },
		"big":              func(f *fleet) { f.spread(1, 5) },
		"at a hundred":     func(f *fleet) { f.spread(1, 100) },
		"at all upstreams": func(f *fleet) { f.spread(1, 1000) },
	} {
		for kind, weights := range map[string][]int{"equal": {1}, "weighted": {1, 1, 2, 4}} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				f := fleetOf(1000, 125, weights...)
				fill(f, 2, 20)
				set(f)
				all := f.whole()
				b.ReportAllocs()
				for b.Loop() {
					f.offered(f.rooms.Member(1, all))
				}
			})
		}
	}
}

// spread gives the first n upstreams of a room's order as many of its members as
// follow each other.
func (f *fleet) spread(key uint64, n int) {
	for _, i := range f.order(key)[:n] {
		f.add(key, i, 600)
	}
}

func TestPicksAllocateNothing(t *testing.T) {
	f := fleetOf(100, 125, 1, 2)
	f.spread(1, 3)
	f.add(2, 5, 1)
	all := f.whole()
	for name, key := range map[string]uint64{"split": 1, "live": 2, "new": 3} {
		if n := testing.AllocsPerRun(100, func() {
			at := f.offered(f.rooms.Member(key, all))
			if name == "live" {
				f.add(key, at, 1)
				f.remove(key, at, 1)
			}
		}); n != 0 {
			t.Errorf("a %s room: %v allocations", name, n)
		}
	}
}

package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// town is a fleet whose rooms have sizes by Zipf's law, and whose members come and go.
type town struct {
	*fleet
	random *rand.Rand
	// sizes are sums, for drawing a room.
	sizes []float64
	live  []member
	// choose finds the upstream for a member of a room.
	choose func(key uint64) int
}

type member struct {
	key uint64
	at  int
}

func townOf(rooms int, seed uint64, f *fleet) *town {
	w := &town{fleet: f, random: rand.New(rand.NewPCG(seed, 1)), sizes: make([]float64, rooms), choose: f.find}
	sum := 0.0
	for i := range w.sizes {
		sum += 1 / float64(i+1)
		w.sizes[i] = sum
	}
	return w
}

func (w *town) come() {
	room, _ := slices.BinarySearch(w.sizes, w.random.Float64()*w.sizes[len(w.sizes)-1])
	w.enter(mixed(uint64(room)))
}

func (w *town) enter(key uint64) {
	at := w.choose(key)
	w.add(key, at, 1)
	w.live = append(w.live, member{key, at})
}

// leave ends the i-th tunnel.
func (w *town) leave(i int) member {
	m := w.live[i]
	w.live[i] = w.live[len(w.live)-1]
	w.live = w.live[:len(w.live)-1]
	w.remove(m.key, m.at, 1)
	return m
}

// churn lets n tunnels end, each followed by a new one.
func (w *town) churn(n int) {
	for range n {
		w.leave(w.random.IntN(len(w.live)))
		w.come()
	}
}

// die takes an upstream away, whose clients come back at once, in any order.
func (w *town) die(at int) {
	w.nodes[at].gone = true
	var lost []uint64
	for i, m := range slices.Backward(w.live) {
		if m.at == at {
			lost = append(lost, w.leave(i).key)
		}
	}
	w.random.Shuffle(len(lost), func(i, j int) { lost[i], lost[j] = lost[j], lost[i] })
	for _, key := range lost {
		w.enter(key)
	}
}

// figures are what is judged of a town.
type figures struct {
	rooms, several int // live ones, and those of them with more than one member
	split, small   int // and with 2 to 20 members
	largest        float64
}

func (w *town) figures() figures {
	var f figures
	sizes := make(map[uint64]int)
	places := make(map[member]bool)
	at := make(map[uint64]int)
	for _, m := range w.live {
		sizes[m.key]++
		if !places[m] {
			places[m] = true
			at[m.key]++
		}
	}
	f.rooms = len(sizes)
	for key, size := range sizes {
		if size > 1 {
			f.several++
		}
		if at[key] > 1 {
			f.split++
			if size <= 20 {
				f.small++
			}
		}
	}
	for i := range w.nodes {
		if n := &w.nodes[i]; !n.gone {
			fair := float64(w.tunnels) * float64(n.weight) / float64(w.weights())
			f.largest = max(f.largest, float64(n.tunnels)/fair)
		}
	}
	return f
}

func (f figures) part() float64 { return 100 * float64(f.split) / float64(f.rooms) }

// empty ends all tunnels, after which nothing is counted.
func (w *town) empty(t *testing.T) {
	t.Helper()
	for len(w.live) > 0 {
		w.leave(len(w.live) - 1)
	}
	if w.rooms.Len() != 0 || w.tunnels != 0 {
		t.Errorf("%d rooms and %d tunnels are left", w.rooms.Len(), w.tunnels)
	}
}

// A town of the size that rooms are simulated with.
const (
	keys      = 100_000
	tunnels   = 50_000
	upstreams = 20
)

// seeds is how many towns are tried: more if LONG is set.
func seeds() uint64 {
	if os.Getenv("LONG") != "" {
		return 10
	}
	return 1
}

// judge fails if rooms are split that need not be, or an upstream has too much.
// It returns what it has seen.
func (w *town) judge(t *testing.T, when string, largest float64) figures {
	t.Helper()
	f := w.figures()
	t.Logf("%s: %.3f %% split: %+v", when, f.part(), f)
	if f.part() > 0.1 || f.small > 0 || f.largest > largest {
		t.Errorf("%s: rooms are split, or an upstream is too full: %.3f %%, %+v", when, f.part(), f)
	}
	return f
}

// TestRoomsStayWhole is four lifetimes of churn.
func TestRoomsStayWhole(t *testing.T) {
	for seed := range seeds() {
		for name, weights := range map[string][]int{"equal": {1}, "weighted": {1, 1, 2, 4}} {
			w := townOf(keys, seed, fleetOf(upstreams, 125, weights...))
			for range tunnels {
				w.come()
			}
			w.churn(4 * tunnels)
			w.judge(t, fmt.Sprintf("%s, seed %d", name, seed), 1.27)
			w.empty(t)
		}
	}
}

// TestRoomsStayWholeWhileUpstreamsComeAndGo: what dies takes its rooms with it,
// and they come together again, each at one other upstream.
func TestRoomsStayWholeWhileUpstreamsComeAndGo(t *testing.T) {
	for seed := range seeds() {
		w := townOf(keys, seed, fleetOf(upstreams+2, 125, 1))
		w.nodes[0].gone, w.nodes[1].gone = true, true
		for range tunnels {
			w.come()
		}
		for step := range 8 {
			when := fmt.Sprintf("seed %d, step %d", seed, step)
			switch step {
			case 1, 3:
				w.nodes[step/2].gone = false
			case 4, 6:
				w.die(step)
				w.judge(t, when+", one has just died", 1.5)
			}
			w.churn(tunnels / 2)
			w.judge(t, when, 1.32)
		}
		w.churn(tunnels)
		w.judge(t, fmt.Sprintf("seed %d, at the end", seed), 1.27)
		w.empty(t)
	}
}

// TestBoundedOrderSplits is what rooms are for: with the same bound, but each
// member for itself, which is what bounded rings do, many rooms are split.
func TestBoundedOrderSplits(t *testing.T) {
	w := townOf(keys, 0, fleetOf(upstreams, 125, 1))
	w.choose = func(key uint64) int {
		r := RankOf(key)
		bound := 1.25 * float64(w.tunnels+1) / upstreams
		for i := range w.nodes {
			if n := &w.nodes[i]; float64(n.tunnels) < bound {
				r.Offer(i, n.seed, n.weight)
			}
		}
		return r.First()
	}
	for range tunnels {
		w.come()
	}
	w.churn(4 * tunnels)
	f := w.figures()
	t.Logf("%.2f %% of the rooms are split, %.1f %% of those with several members: %+v",
		f.part(), 100*float64(f.split)/float64(f.several), f)
	if f.part() < 2 || f.small < 100 {
		t.Errorf("got %+v: rooms are not worth their memory", f)
	}
}

// rebalance is one step: of each upstream that has too many tunnels, rooms go
// that would be elsewhere now. It returns how many tunnels it has closed.
func (w *town) rebalance(share float64) (closed int) {
	loads := make([]Load, len(w.nodes))
	for i, n := range w.nodes {
		loads[i] = Load{Tunnels: n.tunnels, Movable: n.tunnels, Weight: float64(n.weight), Closed: n.gone}
	}
	v := LevelsOf(loads)
	crowds := make([]map[uint64]int, len(w.nodes))
	for _, m := range w.live {
		if crowds[m.at] == nil {
			crowds[m.at] = make(map[uint64]int)
		}
		crowds[m.at][m.key]++
	}
	var all []Crowd
	for from := range crowds {
		for key, members := range crowds[from] {
			to := w.offered(w.rooms.Without(key, w.nodes[from].seed, w.whole()))
			all = append(all, Crowd{Key: key, From: from, To: to, Members: members})
		}
	}
	going := make(map[member]bool)
	for _, c := range v.Crowds(all, int(math.Ceil(share*float64(v.TooMany)))) {
		going[member{c.Key, c.From}] = true
		w.rooms.Leave(c.Key, w.nodes[c.From].seed)
	}
	var closing []member
	for _, m := range w.live {
		if going[m] {
			closing = append(closing, m)
		}
	}
	w.random.Shuffle(len(closing), func(i, j int) { closing[i], closing[j] = closing[j], closing[i] })
	for _, m := range closing { // one after another, so that there are others to follow
		w.leave(slices.Index(w.live, m))
		w.enter(m.key)
	}
	return len(closing)
}

// TestRebalanceMovesWholeRooms: upstreams join, and get rooms of the others.
func TestRebalanceMovesWholeRooms(t *testing.T) {
	const few = 10_000
	for seed := range seeds() {
		w := townOf(keys, seed, fleetOf(8, 125, 1))
		w.nodes[0].gone, w.nodes[1].gone = true, true
		for range few {
			w.come()
		}
		before := w.figures()
		w.nodes[0].gone, w.nodes[1].gone = false, false
		closed, steps := 0, 0
		for ; steps < 20; steps++ {
			n := w.rebalance(0.25)
			if n == 0 {
				break
			}
			closed += n
		}
		f := w.judge(t, fmt.Sprintf("seed %d, %d closed in %d steps, before: %+v", seed, closed, steps, before), 1.3)
		if least := min(w.nodes[0].tunnels, w.nodes[1].tunnels); least < few/8/2 {
			t.Errorf("one that joined has got %d tunnels: %+v", least, f)
		}
		if closed > few/2 {
			t.Errorf("%d tunnels were closed", closed)
		}
		w.empty(t)
	}
}

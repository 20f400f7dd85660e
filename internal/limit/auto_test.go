package limit

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func half() float64 { return 0.5 }

// rig is an Auto with its own time.
type rig struct {
	*Auto
	t   *testing.T
	now time.Time
}

func newRig(t *testing.T) *rig { return &rig{Auto: NewAuto(half), t: t, now: start} }

// settled is one that has found its limit.
func settled(t *testing.T, limit float64, base time.Duration) *rig {
	r := newRig(t)
	r.limit, r.base, r.median, r.doubling, r.nextProbe = limit, base, base, false, at(1e6)
	return r
}

// fill begins as many as are allowed.
func (r *rig) fill() (tickets []Ticket) {
	for r.Allows(r.now) {
		tickets = append(tickets, r.Begin(r.now, true))
	}
	return tickets
}

// exchange has handshakes take place, as many at a time as are allowed.
func (r *rig) exchange(handshakes int, took time.Duration, outcome Outcome) {
	r.t.Helper()
	for handshakes > 0 {
		tickets := r.fill()
		if len(tickets) == 0 {
			r.t.Fatal("none is allowed")
		}
		r.now = r.now.Add(took)
		for _, ticket := range tickets {
			r.End(ticket, r.now, outcome)
		}
		handshakes -= len(tickets)
	}
}

// window has as many take place as make a window.
func (r *rig) window(took time.Duration) {
	r.t.Helper()
	r.exchange(max(leastSamples, int(2*r.limit)), took, Answered)
}

func TestAutoDoublesWhileNoneIsSlower(t *testing.T) {
	r := newRig(t)
	for _, want := range []int{8, 16, 32, 64, 128} {
		if r.window(10 * time.Millisecond); r.Limit() != want {
			t.Fatalf("the limit is %d, want %d", r.Limit(), want)
		}
	}
	if r.window(12 * time.Millisecond); r.Limit() != 256 {
		t.Errorf("at 1.2 times the time the limit is %d, want twice as many", r.Limit())
	}
	r.window(13 * time.Millisecond)
	if r.window(10 * time.Millisecond); r.Limit() >= 512 {
		t.Errorf("after it was slower the limit is %d, which is doubled again", r.Limit())
	}
}

func TestAutoFollowsTheMedian(t *testing.T) {
	for _, c := range []struct {
		limit float64
		over  int // percent of the base
		want  float64
	}{
		{64, 50, 68},
		{64, 100, 68},
		{64, 135, 68},
		{64, 180, 52},
		{64, 270, 36},
		{64, 10_000, 36},
		{1, 100, 1.5},
		{1, 10_000, 1},
		{mostLimit, 100, mostLimit},
	} {
		r := settled(t, c.limit, 100*time.Millisecond)
		if r.window(time.Duration(c.over) * time.Millisecond); math.Abs(r.limit-c.want) > 1e-9 {
			t.Errorf("%v with handshakes of %d %% of their time becomes %v, want %v", c.limit, c.over, r.limit, c.want)
		}
	}
}

func TestAutoLooksOnlyAtHandshakesSinceTheChange(t *testing.T) {
	r := settled(t, 16, time.Second)
	old := r.fill()
	r.change++
	before := r.limit
	for _, ticket := range old {
		r.End(ticket, r.now.Add(time.Hour), Answered)
	}
	if r.ends != 0 || len(r.samples) != 0 || r.limit != before {
		t.Errorf("%d that began before the change count", len(old))
	}
}

func TestAutoStaysWhileNobodyWaits(t *testing.T) {
	r := newRig(t)
	for range 1000 {
		ticket := r.Begin(r.now, false)
		r.now = r.now.Add(time.Second)
		r.End(ticket, r.now, Answered)
	}
	if r.Limit() != firstLimit || r.base != 0 {
		t.Errorf("the limit is %d, and few take %v; want %d as nobody has waited", r.Limit(), r.base, firstLimit)
	}
}

func TestAutoProbesNowAndThen(t *testing.T) {
	r := settled(t, 64, 100*time.Millisecond)
	r.nextProbe = time.Time{}
	last := r.now
	for i, c := range []struct {
		took, base time.Duration
		after      time.Duration
	}{
		{20 * time.Millisecond, 20 * time.Millisecond, 2 * time.Second},
		{30 * time.Millisecond, 20 * time.Millisecond, 2 * time.Second}, // the lower one of two
		{40 * time.Millisecond, 30 * time.Millisecond, 2 * time.Second},
		{50 * time.Millisecond, 30 * time.Millisecond, 10 * time.Second},
		{60 * time.Millisecond, 30 * time.Millisecond, 10 * time.Second},
		{70 * time.Millisecond, 40 * time.Millisecond, 10 * time.Second},
	} {
		for r.probing == 0 {
			r.exchange(1, 100*time.Millisecond, Answered)
			r.limit = 64
		}
		if waited := r.now.Sub(last); waited < c.after || waited > c.after+time.Second {
			t.Errorf("probe %d comes after %v, want %v", i, waited, c.after)
		}
		if r.Limit() != 16 {
			t.Errorf("in probe %d the limit is %d, want a quarter", i, r.Limit())
		}
		for r.probing > 0 {
			r.exchange(1, c.took, Answered)
		}
		last = r.now
		if r.base != c.base || r.Limit() != 64 {
			t.Errorf("after probe %d few take %v, and the limit is %d; want %v and 64", i, r.base, r.Limit(), c.base)
		}
	}
}

// A probe that never ended would hold up a storm that comes later.
func TestAutoGivesUpAProbe(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"nobody waits":    func(r *rig) { r.End(r.Begin(r.now, false), r.now, Answered) },
		"all are refused": func(r *rig) { r.exchange(3*probeSamples, time.Millisecond, Overloaded) },
		"all fail":        func(r *rig) { r.exchange(3*probeSamples, time.Millisecond, Failed) },
	} {
		t.Run(name, func(t *testing.T) {
			r := settled(t, 64, time.Second)
			r.nextProbe, r.windowed = r.now, true
			r.End(r.Begin(r.now, true), r.now, Answered)
			if r.probing == 0 {
				t.Fatal("no probe has begun")
			}
			if end(r); r.probing != 0 || r.base != time.Second {
				t.Errorf("the probe goes on, or says that few take %v", r.base)
			}
		})
	}
}

func TestAutoIsCutOnceAWindow(t *testing.T) {
	r := settled(t, 100, 10*time.Millisecond)
	tickets := r.fill()
	for _, ticket := range tickets[:leastRefused-1] {
		r.End(ticket, r.now, Overloaded)
	}
	if got := r.Limit(); got != 100 {
		t.Errorf("after %d were refused the limit is %d, want 100", leastRefused-1, got)
	}
	for _, ticket := range tickets[leastRefused-1:] {
		r.End(ticket, r.now, Overloaded)
	}
	if got := r.Limit(); got != 70 {
		t.Errorf("after all at once were refused the limit is %d, want 70", got)
	}
	for _, ticket := range r.fill() {
		r.End(ticket, r.now, Overloaded)
	}
	if got := r.Limit(); got != 70 {
		t.Errorf("within a window after that it is %d, want 70", got)
	}
	if r.exchange(5000, time.Millisecond, Overloaded); r.Limit() != 1 {
		t.Errorf("an upstream that refuses all has a limit of %d, want 1", r.Limit())
	}
	if r.exchange(1000, 10*time.Millisecond, Answered); r.Limit() < 10 {
		t.Errorf("after 1000 that it has served the limit is %d, want more", r.Limit())
	}
}

func TestAutoForgetsTheSlowByNature(t *testing.T) {
	r := settled(t, 10, 10*time.Millisecond)
	slow := r.fill()[:3]
	r.under = newUnderWay()
	for i := range slow {
		slow[i] = r.Begin(r.now, false)
	}
	for i := range 49 {
		r.now = r.now.Add(10 * time.Millisecond)
		r.End(r.Begin(r.now, false), r.now, Answered)
		r.Allows(r.now)
		if want := 3; i < 48 && r.UnderWay() != want {
			t.Fatalf("overtaken by %d, %d count, want %d", i+1, r.UnderWay(), want)
		}
	}
	if r.UnderWay() != 0 {
		t.Errorf("overtaken by 49, %d still count", r.UnderWay())
	}
	for _, ticket := range slow {
		r.End(ticket, r.now, Answered)
	}
	if r.UnderWay() != 0 || r.under.first != r.under.next {
		t.Errorf("at their end %d count", r.UnderWay())
	}
}

func TestAutoLetsAFewInIfNothingEnds(t *testing.T) {
	r := settled(t, 100, 10*time.Millisecond)
	all := r.fill()
	for _, want := range []int{4, 8, 16, 32, 64, 64} {
		if r.Allows(r.now) {
			t.Error("more are allowed at once")
		}
		next := r.Next(r.now)
		if got := next.Sub(r.now); got != time.Second {
			t.Errorf("something changes after %v, want a second", got)
		}
		if r.Allows(next.Add(-1)) {
			t.Error("more are allowed before the time that Next says")
		}
		r.now = next
		few := r.fill()
		if len(few) != want {
			t.Errorf("%d are let in, want %d", len(few), want)
		}
		all = append(all, few...)
	}
	r.now = r.now.Add(time.Second / 2)
	r.End(all[0], r.now, Answered)
	if r.Limit() != 100 {
		t.Errorf("after one has ended the limit is %d, want 100 as before", r.Limit())
	}
	for _, ticket := range all[1:] {
		r.End(ticket, r.now, Unknown)
	}
	if r.UnderWay() != 0 {
		t.Errorf("at the end %d count", r.UnderWay())
	}
}

// That nobody came for an hour does not mean that the upstream hangs.
func TestAutoTakesAPauseForNoSilence(t *testing.T) {
	r := settled(t, 4, 10*time.Millisecond)
	r.window(10 * time.Millisecond)
	r.now = r.now.Add(time.Hour)
	tickets := r.fill()
	if r.now = r.now.Add(900 * time.Millisecond); r.Allows(r.now) || r.UnderWay() != len(tickets) {
		t.Errorf("%d of %d count after 0.9 s", r.UnderWay(), len(tickets))
	}
}

func TestAutoKnowsNoOtherTickets(t *testing.T) {
	r := newRig(t)
	r.End(Ticket{}, r.now, Answered)
	ticket := r.Begin(r.now, true)
	r.End(ticket, r.now, Answered)
	r.End(ticket, r.now, Answered)
	if r.UnderWay() != 0 {
		t.Errorf("%d count", r.UnderWay())
	}
}

// One that never ends must not keep all those in memory that come later.
func TestAutoHasBounds(t *testing.T) {
	r := settled(t, 1000, time.Hour)
	r.Begin(r.now, false)
	for range 3 * mostKept {
		r.End(r.Begin(r.now, false), r.now, Answered)
	}
	if len(r.under.ring) > mostKept || r.UnderWay() > 1 {
		t.Errorf("%d are kept, %d count", len(r.under.ring), r.UnderWay())
	}
}

func TestAutoAllocatesNothing(t *testing.T) {
	r := settled(t, 100, time.Millisecond)
	held := make([]Ticket, 0, 1000)
	step := func() {
		for r.Allows(r.now) {
			held = append(held, r.Begin(r.now, true))
		}
		r.now = r.now.Add(time.Millisecond)
		for _, ticket := range held {
			r.End(ticket, r.now, Answered)
		}
		held = held[:0]
		r.limit = 100
	}
	for range 100 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n > 0 {
		t.Errorf("a hundred handshakes allocate %v times", n)
	}
}

// Whatever happens, and in whatever order, each place is given back once.
func TestAutoCountsBackToZero(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		a, now := NewAuto(random.Float64), start
		var open []Ticket
		for range 5000 {
			now = now.Add(time.Duration(random.ExpFloat64() * float64(10*time.Millisecond)))
			switch {
			case random.IntN(200) == 0:
				now = now.Add(2 * time.Second)
			case a.Allows(now) && random.IntN(5) > 0:
				open = append(open, a.Begin(now, random.IntN(4) > 0))
			case len(open) > 0 && random.IntN(3) > 0:
				i := random.IntN(len(open))
				a.End(open[i], now, Outcome(random.IntN(4)))
				open = slices.Delete(open, i, i+1)
			}
			if a.UnderWay() > len(open) || a.UnderWay() < 0 || a.Limit() < 1 {
				t.Fatalf("of %d under way %d count, with a limit of %d", len(open), a.UnderWay(), a.Limit())
			}
		}
		for _, ticket := range open {
			a.End(ticket, now, Answered)
		}
		if a.UnderWay() != 0 || a.under.first != a.under.next {
			t.Fatalf("at the end %d count", a.UnderWay())
		}
	}
}

func BenchmarkAuto(b *testing.B) {
	a, now := NewAuto(half), start
	ring := make([]Ticket, 64)
	a.limit = 64
	i := 0
	for b.Loop() {
		now = now.Add(time.Millisecond)
		a.End(ring[i%64], now, Answered)
		a.Allows(now)
		ring[i%64] = a.Begin(now, true)
		i++
	}
}

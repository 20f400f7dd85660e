package limit

import (
	"math"
	"slices"
	"time"
)

const (
	firstLimit   = 4
	mostLimit    = 1 << 14 // bounds the memory
	leastSamples = 32      // of a window
	probeSamples = 64
	probesSoon   = 3 // so many come soon
	keptProbes   = 5
	leastRefused = 3 // in a window; fewer are not for the load
	mostBurst    = 64
)

// Outcome is what the end of a handshake says about its upstream.
type Outcome int

const (
	// Answered means that the upstream has done the work: how long it took is a sample.
	Answered Outcome = iota
	// Overloaded means that connecting has failed, or that the answer was 503.
	Overloaded
	// Failed means that an answer came that says nothing about how much work there is,
	// such as 500: the upstream lives, and that is all.
	Failed
	// Unknown means that no answer came: the client left, or the time was over.
	Unknown
)

// Ticket is a handshake that is under way. The zero value is none.
type Ticket struct {
	number uint64
	change uint64 // the change after which it began; 0 if it is no sample
	began  time.Time
}

// Auto finds out how many handshakes an upstream does best at a time, by how much longer
// they take than when there are few. The zero value is not usable.
//
//   - It begins with 4. A probe lowers the limit to a quarter, but not below 4, for 64
//     handshakes: their median is what few take. The base follows from the newest probes, and
//     before the first from the first window.
//   - A window is max(32, 2 × limit) handshakes that have begun since the limit changed, while
//     others waited. The limit is doubled until one is slower than 1.25 × base; from then on it
//     is limit × clamp(1.35 × base / median, 0.5, 1) + max(0.5, √limit / 2).
//   - Three that are refused lower it to 0.7 of it, once a window.
//   - Handshakes that are slow by nature stop counting, such as those whose answer waits for a
//     person: older than 8 medians, and overtaken by more than 4 × limit + 8. If nothing ends
//     at all, what is old stops counting, and a few are let in, 64 at most each time.
//
// In a simulation (9,000 at once; 200 a second, of up to 8 at a time, and less by
// 1/(1+(n-8)/50) beyond) all are served within 1.11 to 1.20 times the least possible time
// with one proxy, 1.08 to 1.31 with two, and 1.27 to 1.47 with four. Three things came out of it:
// the base is the second of the last five probes, as the median of three rises with what other
// proxies do (90,000 at once with two: up to 1.30 instead of 1.17, with four 2.3 instead of 1.8);
// there is a window between two probes, or they would take all of the time of an upstream
// that needs seconds; and one that is refused is no reason, as a limit that is lowered for each
// of one in a hundred takes 2.7 times the ideal, and now 1.2, while no more are refused where it
// is for the load.
//
// It is slow where half of the handshakes take seconds (7 times the ideal), where a tenth is
// refused whatever the load (7 times), and where all take very long, as it doubles once in
// their time. It cannot see a collapse that nothing announces: with latency that is flat up to
// some number the limit goes beyond it, so that a few of a hundred are refused; and an upstream
// that hangs then needs a limit that is set. With more proxies than two each takes the others'
// handshakes for the upstream's own time.
type Auto struct {
	random func() float64
	under  underWay

	limit    float64
	doubling bool // until the first window that is slower than few handshakes are
	change   uint64
	base     time.Duration   // of few handshakes; 0 if unknown
	median   time.Duration   // the newest
	samples  []time.Duration // of this window or probe
	ends     int             // of this window, with or without a sample
	refused  int             // in this window
	spared   bool            // as the window before it was cut short, this one is not

	probing   float64         // limit of the probe under way, or 0
	windowed  bool            // a window has been full since the last probe
	probes    []time.Duration // the newest
	probed    int
	nextProbe time.Time

	lastEnd time.Time
	burst   int // limit while nothing ends, or 0
}

// NewAuto returns an Auto. What random returns is from 0 to less than 1.
func NewAuto(random func() float64) *Auto {
	return &Auto{random: random, under: newUnderWay(), limit: firstLimit, doubling: true, change: 1}
}

// Begin counts a handshake that begins now. If others wait, it helps to find the limit.
func (a *Auto) Begin(now time.Time, othersWait bool) Ticket {
	t := Ticket{number: a.under.begin(now), began: now}
	switch {
	case othersWait:
		a.probeIfDue(now)
		t.change = a.change
	case a.probing > 0:
		a.nextProbe = now
		a.endProbe()
	}
	return t
}

// End gives back the place of a handshake. It does nothing for a Ticket that is none.
func (a *Auto) End(t Ticket, now time.Time, outcome Outcome) {
	if t.number == 0 {
		return
	}
	a.under.end(t.number)
	if outcome == Unknown {
		return
	}
	a.lastEnd, a.burst = now, 0
	if t.change != a.change {
		return
	}
	a.ends++
	switch outcome {
	case Answered:
		a.samples = append(a.samples, now.Sub(t.began))
	case Overloaded:
		a.refused++
	}
	switch {
	case a.refused >= leastRefused && !a.spared:
		a.cut()
	case a.probing > 0:
		if len(a.samples) >= probeSamples || a.ends >= 2*probeSamples {
			a.finishProbe(now)
		}
	case a.ends >= max(leastSamples, int(2*a.limit)):
		a.finishWindow()
	}
}

// Allows reports whether one more may begin now.
func (a *Auto) Allows(now time.Time) bool {
	a.forget(now)
	return a.under.count < a.Limit()
}

// Next is when Allows may change its mind though nothing ends; zero if never.
func (a *Auto) Next(now time.Time) time.Time {
	oldest, ok := a.under.oldest()
	if !ok {
		return time.Time{}
	}
	next := later(a.lastEnd.Add(a.silence()), oldest.Add(a.patience()))
	if slow := oldest.Add(a.slowness()); a.isOvertaken() && slow.Before(next) {
		next = slow
	}
	return later(next, now.Add(time.Millisecond))
}

// Limit is how many may be under way now.
func (a *Auto) Limit() int {
	switch {
	case a.burst > 0:
		return a.burst
	case a.probing > 0:
		return int(min(a.probing, a.limit))
	}
	return int(a.limit)
}

// UnderWay is how many count: fewer than there are, if some do not end.
func (a *Auto) UnderWay() int { return a.under.count }

// finishWindow makes the limit follow from a window that is full.
func (a *Auto) finishWindow() {
	a.windowed = true
	if a.refused >= leastRefused {
		a.cut()
		return
	}
	if len(a.samples) == 0 {
		a.restart()
		return
	}
	a.median = medianOf(a.samples)
	if a.base == 0 {
		a.base = a.median
	}
	over := float64(a.median) / float64(max(a.base, 1))
	if a.doubling = a.doubling && over <= 1.25; a.doubling {
		a.setLimit(2 * a.limit)
		return
	}
	fit := min(max(1.35/max(over, 1e-9), 0.5), 1)
	a.setLimit(a.limit*fit + max(0.5, math.Sqrt(a.limit)/2))
}

// cut lowers the limit as the upstream has refused a handshake. The window that follows
// is let come to its end: what fails in it has been asked for too soon to be news.
func (a *Auto) cut() {
	a.doubling = false
	a.setLimit(0.7 * a.limit)
	a.spared = true
}

func (a *Auto) setLimit(limit float64) {
	a.limit = min(max(limit, 1), mostLimit)
	a.restart()
}

// restart begins a window or a probe: who has begun before is no sample of it.
func (a *Auto) restart() {
	a.change++
	a.samples = a.samples[:0]
	a.ends, a.refused, a.spared = 0, 0, false
}

// probeIfDue lets few handshakes be under way for a while if it is time.
func (a *Auto) probeIfDue(now time.Time) {
	switch {
	case a.nextProbe.IsZero():
		a.nextProbe = now.Add(a.untilProbe())
	case a.probing == 0 && a.windowed && !now.Before(a.nextProbe):
		a.probing = min(a.limit, max(firstLimit, a.limit/4))
		a.restart()
	}
}

func (a *Auto) untilProbe() time.Duration {
	if a.probed < probesSoon {
		return 2 * time.Second
	}
	return time.Duration((0.75 + a.random()/2) * float64(10*time.Second))
}

// finishProbe takes the base from a probe, unless too many handshakes have failed in it.
func (a *Auto) finishProbe(now time.Time) {
	if len(a.samples) >= probeSamples {
		a.addProbe(medianOf(a.samples))
	}
	a.nextProbe = now.Add(a.untilProbe())
	refused := a.refused >= leastRefused
	a.endProbe()
	if refused {
		a.cut()
	}
}

// addProbe makes the base follow from the newest probes: the median of up to three, and the
// second of up to five, as other proxies only make probes slower.
func (a *Auto) addProbe(median time.Duration) {
	if len(a.probes) == keptProbes {
		a.probes = slices.Delete(a.probes, 0, 1)
	}
	a.probes = append(a.probes, median)
	a.probed++
	sorted := [keptProbes]time.Duration{}
	n := copy(sorted[:], a.probes)
	slices.Sort(sorted[:n])
	a.base = sorted[min(1, (n-1)/2)]
}

func (a *Auto) endProbe() {
	a.probing, a.windowed = 0, false
	a.restart()
}

// forget has those count no more that would keep others out for nothing: the ones that are
// slow by nature, and all that are old if nothing ends at all.
func (a *Auto) forget(now time.Time) {
	for a.isOvertaken() && a.isOlder(now, a.slowness()) {
		a.under.forget()
	}
	if a.under.count < a.Limit() || now.Sub(a.lastEnd) < a.silence() || !a.isOlder(now, a.patience()) {
		return
	}
	for a.isOlder(now, a.patience()) {
		a.under.forget()
	}
	a.burst = min(max(2*a.burst, firstLimit), mostBurst)
}

func (a *Auto) isOvertaken() bool {
	return a.under.count > 0 && float64(a.under.overtaken()) > 4*a.limit+8
}

func (a *Auto) isOlder(now time.Time, age time.Duration) bool {
	oldest, ok := a.under.oldest()
	return ok && now.Sub(oldest) >= age
}

// slowness is how old a handshake is that does not count if many have overtaken it.
func (a *Auto) slowness() time.Duration {
	if a.median == 0 {
		return time.Second
	}
	return 8 * a.median
}

// silence is how long nothing ends before something is done about it.
func (a *Auto) silence() time.Duration { return max(time.Second/2, 4*a.median) }

// patience is how old a handshake is that does not count if nothing ends.
func (a *Auto) patience() time.Duration { return max(time.Second, 8*a.median) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// medianOf sorts what it is given. Of an even number it is the lower one in the middle.
func medianOf(of []time.Duration) time.Duration {
	slices.Sort(of)
	return of[(len(of)-1)/2]
}

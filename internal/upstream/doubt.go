package upstream

import (
	"net/netip"
	"slices"
	"time"
)

// doubt is what handshakes tell of an upstream that could be connected to. A client may
// have its part in how these fail, so no number of failures says anything alone: when there
// were enough in a row, others are asked for the same, and only if one of them answers
// otherwise, the upstream is doubtful. All is guarded by the table's lock.
type doubt struct {
	failures int // without a success between
	is       bool
	// wary is how many more successes in a row it takes until an upstream that was doubtful
	// is asked for as many failures as any other one before others are asked. One that fails
	// half of the time would else cost its clients something after each trial that succeeds.
	wary int
	// tryAt is when one of those who come may try a doubtful upstream, and triedUntil how long
	// nobody else does then. That is as long as it takes to be late: who is hostile may have
	// any upstream take longer.
	tryAt      time.Time
	triedUntil time.Time
	resets     resets
	// byReset tells that it was resets, so that a tunnel that is opened proves nothing before
	// it is kept. While there is one it is proving, for proof, if that client is known, and vain
	// is how many were not kept.
	byReset, proving bool
	proof            netip.Prefix
	vain             int
}

// waryFor is how many successes that takes for each failure that is needed.
const waryFor = 10

// Unanswered notes a handshake that an upstream has got and not answered as it should. It
// reports whether others are to be asked for the same now. While an upstream is doubtful, and for
// some time after that, they always are, so that no trial costs its client anything.
func (t *Table) Unanswered(f *Failures) (ask bool) {
	if f == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.doubt.failures = min(f.doubt.failures+1, f.key.limits.Max)
	if f.doubt.wary > 0 {
		f.doubt.wary = waryFor * f.key.limits.Max
	}
	return f.doubt.is || f.doubt.wary > 0 || f.doubt.failures == f.key.limits.Max
}

// Convict has an upstream be doubtful, as another one has answered otherwise. It reports
// whether it was not before.
func (t *Table) Convict(f *Failures) (isNew bool) {
	if f == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.convictLocked(f)
}

func (t *Table) convictLocked(f *Failures) (isNew bool) {
	if len(f.endpoints) == 0 {
		return false // the configuration of the handshake was unloaded meanwhile
	}
	isNew = !f.doubt.is
	f.pauseLocked(time.Now())
	f.setDoubtLocked(true)
	if isNew {
		t.serveLocked() // who waits for it may go to others that are doubtful
	}
	return isNew
}

// pauseLocked puts the next trial off. A pause that lasts is not made longer, or clients that
// have to stay and fail could keep newcomers away for ever.
func (f *Failures) pauseLocked(now time.Time) {
	if !now.Before(f.doubt.tryAt) {
		f.doubt.tryAt = now.Add(f.key.limits.Duration)
	}
	f.awaitTrialLocked()
}

// nextTrialLocked is when a doubtful upstream is to be tried.
func (f *Failures) nextTrialLocked() time.Time { return Later(f.doubt.tryAt, f.doubt.triedUntil) }

// awaitTrialLocked has who waits for others of its kind served when it is time for a trial.
func (f *Failures) awaitTrialLocked() {
	for _, e := range f.endpoints {
		if e.pool != nil {
			e.pool.passAtLocked(f.nextTrialLocked())
		}
	}
}

// Acquit forgets the failures of an upstream, as others have answered alike: it is the
// request that is to blame. Whoever was doubtful before stays so.
func (t *Table) Acquit(f *Failures) {
	if f == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.doubt.failures = 0
}

// Answered notes that an upstream has opened a tunnel for a client, which took so long. If
// that was late, it is no success; but where all take as long, it is usual.
func (t *Table) Answered(c *Choice, client netip.Prefix, took time.Duration) {
	f := c.Endpoint.Failures
	t.mu.Lock()
	c.pool.notePaceLocked(took)
	var cleared []*Endpoint
	if f != nil && !c.Overdue {
		cleared = f.succeedLocked(client, time.Now())
	}
	t.mu.Unlock()
	t.tellCleared(cleared)
}

// succeedLocked notes a success. It returns the endpoints whose doubt is over by that.
func (f *Failures) succeedLocked(client netip.Prefix, now time.Time) (cleared []*Endpoint) {
	d := &f.doubt
	d.resets.noteOpened(client, now)
	d.failures, d.wary = 0, max(0, d.wary-1)
	switch {
	case !d.is || now.Before(d.tryAt):
	case d.byReset && !d.proving:
		d.proving, d.proof, d.tryAt = true, client, now.Add(AtOnce)
		f.awaitTrialLocked()
	default:
		return f.clearLocked()
	}
	return nil
}

// Passed notes that an upstream has passed an active check that opens a tunnel.
func (t *Table) Passed(v *Verdict) {
	t.mu.Lock()
	var cleared []*Endpoint
	for _, e := range v.endpoints {
		if f := e.Failures; f != nil && f.doubt.is {
			cleared = append(cleared, f.clearLocked()...)
		}
	}
	t.mu.Unlock()
	t.tellCleared(cleared)
}

func (t *Table) tellCleared(endpoints []*Endpoint) {
	if len(endpoints) > 0 {
		t.Changed(Change{Kind: AddressTrusted, Address: endpoints[0].Host.Address, Endpoints: endpoints})
	}
}

// clearLocked ends the doubt. It returns the endpoints that get newcomers again.
func (f *Failures) clearLocked() []*Endpoint {
	f.setDoubtLocked(false)
	f.doubt = doubt{triedUntil: f.doubt.triedUntil, wary: waryFor * f.key.limits.Max}
	return slices.Clone(f.endpoints)
}

func (f *Failures) setDoubtLocked(is bool) {
	f.doubt.is = is
	for _, e := range f.endpoints {
		e.doubtful = is
		e.showLocked()
	}
}

// anyDoubtful has the bits of all classes with room that are doubtful.
const anyDoubtful = 1<<doubtful | 1<<(doubtful|backup) | 1<<(doubtful|failing) | 1<<(doubtful|backup|failing)

// trialLocked returns the slot of an upstream that is to be tried now; -1 if there is none.
// It is one that is passed by, because others of its kind are not doubtful, and would come
// before those of the class that is chosen from. The others may be full: they would stay so
// for as long as their tunnels live, and what has recovered would never be found out.
func trialLocked(slots []Slot, seen uint64, of class) int {
	if seen&anyDoubtful == 0 {
		return -1
	}
	now, best := time.Now(), -1
	for i := range slots {
		c := slots[i].class
		if c&doubtful == 0 || c >= classes || c == of || c > of|doubtful || best >= 0 && c >= slots[best].class {
			continue
		}
		if f := slots[i].endpoint.Failures; f.mayBeTried(now) {
			best = i
		}
	}
	return best
}

// beginTrialLocked reports whether a handshake at e is a trial.
func (e *Endpoint) beginTrialLocked(p *Pool, now time.Time) bool {
	if !e.Failures.mayBeTried(now) {
		return false
	}
	e.Failures.doubt.triedUntil = now.Add(p.lateLocked(true))
	e.Failures.awaitTrialLocked()
	return true
}

// mayBeTried reports whether a doubtful upstream is to be tried.
func (f *Failures) mayBeTried(now time.Time) bool {
	return f != nil && f.doubt.is && !now.Before(f.doubt.tryAt) && !now.Before(f.doubt.triedUntil)
}

// TrialOver tells that the handshake of a choice has come to an end, if it was a trial.
func (t *Table) TrialOver(c *Choice) {
	if !c.Trial {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c.Trial = false
	c.Endpoint.Failures.doubt.triedUntil = time.Time{}
}

// Witness chooses an upstream that is asked for the same as another one was: one of its kind
// that is not doubtful, was not tried, and has room. The first is drawn by its live tunnels, of
// those that have not failed since, as that shows that it works; any further one just at
// random. Not the one with most tunnels is the first: clients stay with a witness, so where
// there are many trials, it would get all tunnels of the pool. Where all others are doubtful,
// one of these is asked: of two upstreams that restart one after the other, the first is well
// again before it is tried. If there is none at all for a doubtful upstream, its next trial is
// put off, as each costs a client something.
func (c *Candidates) Witness(of *Choice, first bool) *Choice {
	c.pool.table.mu.Lock()
	defer c.pool.table.mu.Unlock()
	c.pool.passLocked()
	slots := c.slotsLocked()
	kind := of.Endpoint.kindLocked() & backup
	isOther := func(s *Slot) bool {
		return s.endpoint.Host != of.Endpoint.Host && !slices.Contains(c.tried, s.endpoint.Server)
	}
	best := -1
	if first {
		best = c.drawLocked(slots, kind, isOther, (*Slot).shownLocked)
	}
	if best < 0 {
		if !slices.ContainsFunc(slots, func(s Slot) bool { return s.class == kind && s.endpoint.Host != of.Endpoint.Host }) {
			kind |= doubtful
		}
		best = c.drawLocked(slots, kind, isOther, func(*Slot) int { return 1 })
	}
	if best < 0 {
		if f := of.Endpoint.Failures; first && f != nil && f.doubt.is {
			f.pauseLocked(time.Now())
		}
		return nil
	}
	chosen := c.reserveLocked(slots[best].endpoint)
	chosen.IsWitness, chosen.Late = true, c.pool.lateLocked(false)
	return chosen
}

// drawLocked draws a slot of a class at random, by what it weighs; -1 if none weighs anything.
func (c *Candidates) drawLocked(slots []Slot, of class, is func(*Slot) bool, weight func(*Slot) int) int {
	drawn, all := -1, 0
	for i := range slots {
		s := &slots[i]
		if s.class != of || !is(s) {
			continue
		}
		if n := weight(s); n > 0 {
			if all += n; c.pool.table.random(all) < n {
				drawn = i
			}
		}
	}
	return drawn
}

// shownLocked is how many tunnels show that an upstream works: none if it has failed since.
func (s *Slot) shownLocked() int {
	if f := s.endpoint.Failures; f != nil && f.doubt.failures > 0 {
		return 0
	}
	return int(s.tunnels)
}

// A handshake is late when it is older than lateFactor times what is usual in its pool, and
// than leastLate. Clients leave after 4 to 20 seconds, so one that tries an upstream which may
// well be silent is helped sooner.
const (
	lateFactor     = 10
	leastLate      = 5 * time.Second
	leastLateTrial = time.Second
)

// lateLocked is when a handshake is late.
func (p *Pool) lateLocked(trial bool) time.Duration {
	if trial {
		return max(leastLateTrial, lateFactor*p.pace)
	}
	return max(leastLate, lateFactor*p.pace)
}

// notePaceLocked moves what is usual towards how long a handshake took, by a step that does
// not depend on how far that is: in the end, as many are faster as are slower.
func (p *Pool) notePaceLocked(took time.Duration) {
	const step = 16
	switch {
	case p.pace == 0:
		p.pace = took
	case took > p.pace:
		p.pace += p.pace/step + 1
	default:
		p.pace -= p.pace / step
	}
}

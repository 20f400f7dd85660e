package tunnel

import (
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// activity is what the sweep remembers of a tunnel from one time to the next. The
// relay only counts bytes, so the passing of time costs it nothing.
type activity struct {
	read, taken [2]uint64
	last        time.Time // when something was last seen to have happened
	halfClosed  bool      // one peer has ended its stream, the other has not
	impatient   bool      // TCP gives peers up
	stalls      *[2]stall // nil if there has not been one
	messages    uint64    // that have ended, in both directions
}

// stall is a direction whose writes make no progress.
type stall struct {
	since   time.Time // zero: they do
	backlog int
}

// setTimes sets what the sweep goes by. random returns a number in [0, 1).
func (t *Tunnel) setTimes(now time.Time, random func() float64) {
	t.opened = now
	t.noteActivity(now)
	if t.inspector != nil {
		t.inspector.pingStates[0].heardAt, t.inspector.pingStates[1].heardAt = now, now
	}
	if t.options.MaxLifetime > 0 {
		shortened := float64(t.options.MaxLifetime) * (1 - t.options.Jitter*random())
		t.limit(Deadline{
			At: t.live.Now().Add(time.Duration(shortened)), Reason: MaxLifetime, Code: frame.StatusGoingAway,
		})
	}
}

// look ends the tunnel if one of its times is over, tells the meter what has happened,
// and returns when the next time can be over. It is called by the sweep only. slept is how
// long the machine has, which counts for deadlines only.
func (t *Tunnel) look(now time.Time, slept time.Duration) (next time.Duration) {
	t.giveUp()
	t.check(now, slept)
	t.meterMoved(now) // afterwards: what is read since then touches the tunnel
	if t.isWatched() {
		t.touch()
	}
	return t.nextDue(slept)
}

// giveUp has TCP give up peers, if there is a write_timeout: after the sweep would have
// ended the tunnel with the reason, which takes it some rounds to see. It can only see that
// a peer is stuck while something waits to be written; TCP knows what is on its way to
// somebody who has gone. The first look is soon enough, and spares tunnels that are over by
// then eight system calls.
func (t *Tunnel) giveUp() {
	if write := t.options.Write; write > 0 && !t.seen.impatient {
		t.seen.impatient = true
		t.relay.GiveUpAfter(write + 5*SweepInterval)
	}
}

// check ends the tunnel if one of its times is over.
func (t *Tunnel) check(now time.Time, slept time.Duration) {
	t.observe(now)
	p := t.options
	deadline, limited := t.earliest()
	switch {
	case p.Write > 0 && t.writeStalled(now):
		t.end(WriteTimeout, frame.StatusGoingAway)
	case p.HalfClose > 0 && t.seen.halfClosed && now.Sub(t.seen.last) >= p.HalfClose:
		t.end(HalfCloseTimeout, frame.StatusGoingAway)
	case p.Idle > 0 && now.Sub(t.seen.last) >= p.Idle:
		t.end(IdleTimeout, frame.StatusGoingAway)
	case limited && !now.Add(slept).Before(deadline.end()):
		t.End(Ending{Reason: deadline.Reason, Code: deadline.Code, Text: deadline.Text})
	case p.Ping > 0:
		t.keepAlive(now)
	}
}

// isWatched reports whether the sweep has to look again, though nothing may happen of which
// it is told: something is on its way to a destination, or a peer is to react to a ping.
func (t *Tunnel) isWatched() bool {
	w := &t.seen
	return w.read != w.taken || t.inspector != nil && t.inspector.watched != [2]bool{}
}

// nextDue is when one of the times may be over, unless something happens before.
func (t *Tunnel) nextDue(slept time.Duration) (next time.Duration) {
	next = never
	if !t.IsOpen() {
		return next // the end has timers
	}
	is := func(since time.Time, limit time.Duration) {
		if limit > 0 {
			next = min(next, since.Sub(t.live.began)+limit)
		}
	}
	p := t.options
	is(t.seen.last, p.Idle)
	if t.seen.halfClosed {
		is(t.seen.last, p.HalfClose)
	}
	if d, limited := t.earliest(); limited {
		next = min(next, d.end().Sub(t.live.began)-slept)
	}
	if _, pings := t.mayPing(); pings && p.Ping > 0 {
		for i := range t.inspector.pingStates {
			v := &t.inspector.pingStates[i]
			last := v.heardAt
			if v.pingedAt.After(last) {
				last = v.pingedAt
			}
			is(last, p.Ping)
			if !v.askedAt.IsZero() {
				is(v.askedAt, p.PingTimeout)
			}
		}
	}
	return next
}

// observe compares the relay's counts with the last ones.
func (t *Tunnel) observe(now time.Time) {
	w := &t.seen
	last, moved := w.last, uint64(0)
	if half := t.halfClosed(); half != w.halfClosed {
		w.halfClosed = half
		t.noteActivity(now)
	}
	for d := range relay.Direction(2) {
		read, taken := t.relay.Counts(d)
		moved += read - w.read[d]
		if t.isActive(d, read, taken) {
			t.noteActivity(now)
		}
		t.noteStall(d, now, read != taken && taken == w.taken[d])
		w.read[d], w.taken[d] = read, taken
	}
	if w.last.After(last) {
		messages := t.messages[0].Load() + t.messages[1].Load()
		t.rates.note(now.Sub(last), moved, messages-w.messages)
		w.messages = messages
	}
}

func (t *Tunnel) noteActivity(now time.Time) {
	t.seen.last = now
	t.active.Store(now.UnixNano())
}

// isActive reports whether something has happened in a direction, given its new
// counts. Our pings do not count there, but the pongs do. They are no activity.
func (t *Tunnel) isActive(d relay.Direction, read, taken uint64) bool {
	w := &t.seen
	if t.inspector == nil {
		return read != w.read[d] || taken != w.taken[d]
	}
	wrote := w.read[d] != w.taken[d] && taken != w.taken[d] // a write that has taken its time
	return t.inspector.directions[d].heard.Swap(false) || wrote
}

// noteStall notes whether the writes of a direction make progress. stuck tells that
// one has not come to its end since the last time, which only says something if what the
// system holds has not become less either.
func (t *Tunnel) noteStall(d relay.Direction, now time.Time, stuck bool) {
	w := &t.seen
	switch {
	case stuck && w.stalls == nil:
		w.stalls = new([2]stall)
	case w.stalls == nil:
		return
	}
	s := &w.stalls[d]
	was := !s.since.IsZero()
	if was != stuck {
		t.meterStalled(d, stuck)
	}
	if !stuck {
		*s = stall{}
		return
	}
	backlog := t.relay.Backlog(d)
	if was && backlog == s.backlog {
		return
	}
	if was {
		t.noteActivity(now) // the peer takes some of it
	}
	*s = stall{now, backlog}
}

func (t *Tunnel) writeStalled(now time.Time) bool {
	if t.seen.stalls == nil {
		return false
	}
	for _, s := range t.seen.stalls {
		if !s.since.IsZero() && now.Sub(s.since) >= t.options.Write {
			return true
		}
	}
	return false
}

func (t *Tunnel) halfClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended[0] != t.ended[1]
}

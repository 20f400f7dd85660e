package tunnel

import (
	"math"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// Meter is told what a tunnel does, so that others can have sums without looking at
// tunnels. It is told under locks, so it must neither block nor call back.
type Meter interface {
	// Moved is told what has changed since the last time: when the tunnel starts, at
	// most once a second while it is open, when one of its directions ends, and when it
	// has ended, which makes all that is no total zero again.
	Moved(Movement)
	// Pinged is told that a ping of ours goes to p, Ponged how long its answer took,
	// and PingTimedOut that p was lost, as it has not reacted.
	Pinged(p Peer)
	Ponged(p Peer, after time.Duration)
	PingTimedOut(p Peer)
}

// Movement is what has changed at a tunnel. But for times these are differences. The
// arrays are by direction.
type Movement struct {
	Traffic

	// Buffered are bytes that have been read and wait for the destination, and Stalled
	// counts writes to it that make no progress.
	Buffered, Stalled [2]int
	// WasActive is when the tunnel was last told to be active, and Active when it is
	// instead, in seconds since 1970: zero before it has started, and when it has ended.
	WasActive, Active int64
}

// metered is what a tunnel's meter has been told. It is guarded by the tunnel's mu.
type metered struct {
	Traffic

	active   int64
	buffered [2]int32
	stalled  [2]bool
	over     bool
}

// beginMeterLocked tells the meter that the tunnel has started.
func (t *Tunnel) beginMeterLocked() {
	if t.Meter == nil {
		return
	}
	t.metered.active = t.opened.Unix()
	t.Meter.Moved(Movement{Active: t.metered.active})
}

// meterMoved tells the meter what has changed.
func (t *Tunnel) meterMoved(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Meter == nil || t.metered.over || !t.IsOpen() {
		return // the end adds the rest
	}
	to := t.metered
	for d := range relay.Direction(2) {
		if t.ended[d] {
			continue // that is told, and what is read to be discarded is no traffic
		}
		read, taken := t.relay.Counts(d)
		bytes, messages := to.of(d)
		*bytes = max(*bytes, t.passedOf(d, taken))
		*messages = t.messages[d].Load()
		to.buffered[d] = int32(min(read-taken, math.MaxInt32))
	}
	if to.Traffic != t.metered.Traffic {
		to.active = now.Unix()
	}
	t.tellMeterLocked(to)
}

// meterDirectionLocked tells the meter the rest of a direction that has ended: the tunnel
// may go on for hours. It is called by the direction's writer.
func (t *Tunnel) meterDirectionLocked(d relay.Direction) {
	if t.Meter == nil || t.metered.over {
		return
	}
	to := t.metered
	bytes, messages := to.of(d)
	*bytes, *messages = max(*bytes, t.passed[d]), t.messages[d].Load()
	to.buffered[d] = 0
	if to.Traffic != t.metered.Traffic {
		to.active = time.Now().Unix()
	}
	t.tellMeterLocked(to)
}

// passedOf is how many of the bytes were passed on that a direction's destination
// has taken or a verdict has discarded.
func (t *Tunnel) passedOf(d relay.Direction, taken uint64) uint64 {
	return uint64(max(0, int64(taken)-t.dropped[d].Load()))
}

// of returns where the counts of a direction are.
func (c *Traffic) of(d relay.Direction) (bytes, messages *uint64) {
	if d == relay.ClientToUpstream {
		return &c.BytesIn, &c.MessagesIn
	}
	return &c.BytesOut, &c.MessagesOut
}

// meterStalled tells the meter that a write of direction d makes no progress any more, or
// does again.
func (t *Tunnel) meterStalled(d relay.Direction, is bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Meter == nil || t.metered.over {
		return
	}
	to := t.metered
	to.stalled[d] = is
	t.tellMeterLocked(to)
}

// endMeter tells the meter the rest.
func (t *Tunnel) endMeter(all Traffic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Meter == nil {
		return
	}
	t.tellMeterLocked(metered{Traffic: Traffic{
		max(all.BytesIn, t.metered.BytesIn), max(all.BytesOut, t.metered.BytesOut),
		max(all.MessagesIn, t.metered.MessagesIn), max(all.MessagesOut, t.metered.MessagesOut),
	}, over: true})
}

// tellMeterLocked tells the meter the difference to what it knows.
func (t *Tunnel) tellMeterLocked(to metered) {
	was := t.metered
	t.metered = to
	if to == was {
		return
	}
	m := Movement{
		Traffic: Traffic{
			to.BytesIn - was.BytesIn, to.BytesOut - was.BytesOut, to.MessagesIn - was.MessagesIn, to.MessagesOut - was.MessagesOut,
		},
		WasActive: was.active,
		Active:    to.active,
	}
	for d := range m.Buffered {
		m.Buffered[d] = int(to.buffered[d]) - int(was.buffered[d])
		m.Stalled[d] = one(to.stalled[d]) - one(was.stalled[d])
	}
	t.Meter.Moved(m)
}

// one is 1 for what is, and 0 for what is not.
func one(is bool) int {
	if is {
		return 1
	}
	return 0
}

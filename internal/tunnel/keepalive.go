package tunnel

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

const (
	// A ping of ours carries the tunnel's nonce and a number, in bytes.
	nonceSize = 8
	pingSize  = nonceSize + 4

	// pongHead are the first two bytes of a pong to it, without the mask bit.
	pongHead0 = 0x80 | byte(frame.Pong)
	pongHead1 = pingSize
	maskBit   = 0x80
)

// pingState is what the sweep remembers of one peer.
type pingState struct {
	read     uint64    // bytes that had come from it
	heardAt  time.Time // when that was last seen to grow
	pingedAt time.Time // when the last ping was due
	askedAt  time.Time // since when it has not reacted to a ping; zero if it has
	// acknowledged is how much of what was sent to it its system has taken.
	acknowledged int64
}

func newNonce() (nonce [nonceSize]byte) {
	_, _ = rand.Read(nonce[:]) // never fails
	return nonce
}

// keepAlive ends the tunnel if a peer has not reacted to a ping, and otherwise
// has pings put in for silent peers. It is called by the sweep only.
func (t *Tunnel) keepAlive(now time.Time) {
	t.inspector.watched = [2]bool{}
	closing, ok := t.mayPing()
	if !ok {
		return
	}
	for d := range relay.Direction(2) {
		// A peer that has said Close need not answer any more.
		if t.hasNotReacted(d, now) && source(d) != closing {
			t.endLost(source(d))
			return
		}
	}
	for d := range relay.Direction(2) {
		v, to := &t.inspector.pingStates[d], &t.inspector.directions[d.Opposite()]
		if now.Sub(v.heardAt) >= t.options.Ping && now.Sub(v.pingedAt) >= t.options.Ping {
			v.pingedAt = now
			t.inspector.directions[d].pinged.Store(true)
			to.due.Store(true)
			t.relay.Wake(d.Opposite())
		}
	}
}

// mayPing reports whether pings make sense, and who has said Close already.
func (t *Tunnel) mayPing() (closing Peer, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closeFrom, t.mayPingLocked()
}

// mayPingLocked is false where frames cannot be told, and where one of the
// directions has ended: there, nothing can be asked or nothing answered.
func (t *Tunnel) mayPingLocked() bool {
	return t.IsOpen() && !t.opaque && !t.ended[0] && !t.ended[1]
}

// hasNotReacted reports whether the source of d has got a ping, whosever, and
// nothing has come from it for ping_timeout since then.
func (t *Tunnel) hasNotReacted(d relay.Direction, now time.Time) bool {
	v := &t.inspector.pingStates[d]
	read, taken := t.seen.read[d], t.seen.taken[d]
	asked := t.options.PingTimeout > 0 && t.inspector.directions[d.Opposite()].asked.Load() == read+1
	// A peer that is not listened to is not silent. A limited rate is no
	// reason: each second some message has its turn.
	if read != v.read || read != taken {
		v.read, v.heardAt, v.askedAt = read, now, time.Time{}
		t.inspector.watched[d] = asked
		return false
	}
	if !asked {
		return false
	}
	if takes := t.isTaking(d.Opposite(), v); takes || v.askedAt.IsZero() {
		v.askedAt = now
	}
	return now.Sub(v.askedAt) >= t.options.PingTimeout
}

// isTaking reports whether the destination of d has taken something and has
// more to take: it may not have come to the ping yet.
func (t *Tunnel) isTaking(d relay.Direction, v *pingState) bool {
	backlog := t.relay.Backlog(d)
	was := v.acknowledged
	v.acknowledged = int64(t.seen.taken[d]) - int64(backlog)
	t.inspector.watched[d.Opposite()] = backlog > 0
	return backlog > 0 && v.acknowledged > was
}

// endLost ends the tunnel because a peer has not reacted to a ping.
func (t *Tunnel) endLost(p Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.IsOpen() {
		t.inspector.blamed = p
		if t.Meter != nil {
			t.Meter.PingTimedOut(p)
		}
		t.endLocked(Ending{Reason: PingTimeout, Code: frame.StatusGoingAway})
	}
}

// takePing returns the ping that is due in direction d, at a frame boundary, or
// nothing if there is a reason not to ping any more.
func (t *Tunnel) takePing(d relay.Direction, s *frame.Scanner) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &t.inspector.directions[d]
	l.due.Store(false)
	// A peer may answer only the last of several pings (RFC 6455 section
	// 5.5.3), which must not be ours if the application waits for an answer.
	if !t.mayPingLocked() || t.closeFrom != "" || !s.AtBoundary() || l.owing.Load() {
		return nil
	}
	t.inspector.pings++
	payload := binary.BigEndian.AppendUint32(t.inspector.nonce[:nonceSize:nonceSize], t.inspector.pings)
	l.ping.Store(t.inspector.pings)
	l.pingedAt.Store(int64(time.Since(t.opened)))
	if t.Meter != nil {
		t.Meter.Pinged(source(d.Opposite()))
	}
	t.awaitDeliveryLocked(d)
	var mask *[4]byte
	if d == relay.ClientToUpstream {
		mask = frame.NewMask()
	}
	return frame.AppendControl(nil, frame.Ping, payload, mask)
}

// pingPassed notes that a ping of the application has passed.
func (t *Tunnel) pingPassed(d relay.Direction) {
	l := &t.inspector.directions[d]
	l.passing = absent
	if t.options.PingTimeout == 0 || l.asking != 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heardFrom(d) != l.asked.Load() { // else an earlier one counts
		t.awaitDeliveryLocked(d)
	}
}

// awaitDeliveryLocked has the writer of direction d called when it is ready.
// Then the destination has taken the ping, or its system has. Whatever comes
// from it from now on is a reaction: it may answer before the writer is called.
func (t *Tunnel) awaitDeliveryLocked(d relay.Direction) {
	t.inspector.directions[d].asking = t.heardFrom(d)
	t.relay.Wake(d)
}

// pingDelivered notes that the destination of d has got a ping. If it has got
// one before and not reacted, the first one counts.
func (t *Tunnel) pingDelivered(d relay.Direction) {
	l := &t.inspector.directions[d]
	l.asked.Store(l.asking)
	l.asking = 0
	t.touch() // by now the sweep may have looked since the call of the hook
}

// heardFrom is one more than the number of bytes that have come from the
// destination of d.
func (t *Tunnel) heardFrom(d relay.Direction) uint64 {
	read, _ := t.relay.Counts(d.Opposite())
	return read + 1
}

// mayBeOurs reports whether the frame that begins with head may be a pong to a
// ping of ours.
func (t *Tunnel) mayBeOurs(d relay.Direction, head []byte) bool {
	return head[0] == pongHead0 && (len(head) == 1 || head[1]&^maskBit == pongHead1) &&
		t.inspector.directions[d].pinged.Load()
}

// judgePong judges the payload, or its beginning, of a frame that may be a pong
// to a ping of ours. Whose pong it is does not depend on when it comes: the
// nonce tells, whatever the number.
func (t *Tunnel) judgePong(d relay.Direction, mask [4]byte, payload []byte) finding {
	plain := bytes.Clone(payload)
	frame.ApplyMask(plain, mask, 0)
	n := min(len(plain), nonceSize)
	switch {
	case !bytes.Equal(plain[:n], t.inspector.nonce[:n]):
		// An answer to the application, or to nothing.
		t.inspector.directions[d.Opposite()].owing.Store(false)
		return nothing
	case len(plain) < pingSize:
		return undecided
	}
	t.meterPong(d, binary.BigEndian.Uint32(plain[nonceSize:pingSize]))
	return ourPong
}

// meterPong tells the meter how long the source of d took to answer a ping of ours. Of
// several, a peer may answer the last one only, and it may answer that more than once.
func (t *Tunnel) meterPong(d relay.Direction, number uint32) {
	if l := &t.inspector.directions[d.Opposite()]; t.Meter != nil && l.ping.CompareAndSwap(number, 0) {
		t.Meter.Ponged(source(d), time.Since(t.opened)-time.Duration(l.pingedAt.Load()))
	}
}

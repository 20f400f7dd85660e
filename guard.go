package websocketproxy

import (
	"slices"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// guard is what a tunnel has only if limits are configured for it. Its frames
// are then judged by their headers before these are passed on.
//
// A header that is not complete is withheld, so that its destination is at a
// frame boundary whatever the judgement. The scanner of a direction follows
// what its destination gets, so it stands at that boundary meanwhile. What is
// withheld when the source ends its stream is part of no frame and is dropped.
type guard struct {
	lanes [2]lane
	// What follows is guarded by the tunnel's mu.

	// blamed is the peer whose fault the end of the tunnel is, if the reason
	// does not tell.
	blamed peer
	// upstreamCode is the status of the Close for the upstream, if it is not
	// the usual one.
	upstreamCode uint16
	// refused is set when a frame of the client was refused. It follows what
	// comes after that, all of which is discarded.
	refused *frame.Scanner
}

// lane is one direction of a guarded tunnel. It belongs to the direction's
// writer.
type lane struct {
	// held is the beginning of a frame that was withheld.
	held []byte
	// message is the size of the message that is passing, as far as known.
	message uint64
}

// finding is what makes a look at the bytes of a direction stop.
type finding uint8

const (
	// nothing: all was judged.
	nothing finding = iota
	// stopped: the scanner has nothing more to follow.
	stopped
	// farewell: a Close frame of which nothing was passed on begins here.
	farewell
	// tooBig: a frame begins here whose message is larger than allowed.
	tooBig
	// broken: a violation of the protocol begins here that must not pass.
	broken
)

func newGuard(p *tunnelPolicy) *guard {
	if p.maxMessage == 0 {
		return nil
	}
	return new(guard)
}

// inspectGuarded is Inspect of an open tunnel with a guard.
func (t *tunnel) inspectGuarded(d relay.Direction, s *frame.Scanner, p []byte) relay.Verdict {
	v, found := relay.Verdict{Pass: len(p)}, nothing
	if !s.Closed() && !s.Opaque() {
		v, found = t.follow(d, p, false)
	}
	switch found {
	case stopped:
		t.stopScanning(d, s)
	case tooBig, broken:
		v = t.refuse(d, found, v, p)
	}
	return v
}

// awaitGuardedLocked is awaitAnswerLocked of a tunnel with a guard.
func (t *tunnel) awaitGuardedLocked(s *frame.Scanner, p []byte) relay.Verdict {
	const d = relay.ClientToUpstream
	if t.guard.refused != nil {
		return t.discardLocked(s, p)
	}
	v, found := t.follow(d, p, t.guard.upstreamCode != 0)
	switch found {
	case stopped:
		if s.Closed() {
			t.noteCloseLocked(client, s.CloseCode())
			t.lingerLocked()
			v.Shut = true
		}
	case farewell:
		t.tellUpstream = true
		t.lingerLocked()
		return after(v, t.shutLocked(d, s, p[v.Pass:]))
	case tooBig, broken:
		t.refuseLocked(d, found)
		return after(v, t.discardLocked(s, p[v.Pass:]))
	}
	return v
}

// after is the verdict of passing what first does, and then obeying second,
// which passes nothing.
func after(first, second relay.Verdict) relay.Verdict {
	second.Pass = first.Pass
	return second
}

// follow judges the frames that begin in p, up to the first one that is not
// simply passed on. If withClose is set, that may be a Close frame.
func (t *tunnel) follow(d relay.Direction, p []byte, withClose bool) (relay.Verdict, finding) {
	if len(t.guard.lanes[d].held) > 0 {
		return t.resume(d, p, withClose)
	}
	s := &t.scanners[d]
	for i := 0; ; {
		n, boundary := s.ToBoundary(p[i:])
		i += n
		switch {
		case s.Closed() || s.Opaque():
			return relay.Verdict{Pass: len(p)}, stopped
		case !boundary || i == len(p):
			return relay.Verdict{Pass: len(p)}, nothing
		}
		n, fate, found := t.judge(d, p[i:], withClose)
		switch {
		case found != nothing:
			return relay.Verdict{Pass: i}, found
		case fate == withhold:
			t.guard.lanes[d].held = slices.Clone(p[i:])
			return relay.Verdict{Pass: i, Drop: len(p) - i}, nothing
		}
		i += n
	}
}

// longestHead is how much of a frame decides about it.
const longestHead = 14

// resume judges the frame of which the beginning is withheld.
func (t *tunnel) resume(d relay.Direction, p []byte, withClose bool) (relay.Verdict, finding) {
	if len(p) == 0 {
		return relay.Verdict{}, nothing
	}
	l, s := &t.guard.lanes[d], &t.scanners[d]
	was := len(l.held)
	head := slices.Concat(l.held, p[:min(len(p), longestHead-was)])
	n, fate, found := t.judge(d, head, withClose)
	switch {
	case found != nothing:
		return relay.Verdict{}, found
	case fate == withhold:
		l.held = head
		return relay.Verdict{Drop: len(head) - was}, nothing
	}
	l.held = nil
	s.Scan(nil) // a frame without payload ends here
	if s.Closed() {
		found = stopped
	}
	t.passed[d] += uint64(n)
	return relay.Verdict{Insert: head[:n], Drop: n - was}, found
}

// fate is what becomes of a frame.
type fate uint8

const (
	pass fate = iota
	// withhold: as long as there is not more of it.
	withhold
)

// judge looks at the frame that begins with p, at a boundary. If it may pass,
// the scanner takes the first n bytes, its header. Nothing else moves it.
func (t *tunnel) judge(d relay.Direction, p []byte, withClose bool) (n int, f fate, found finding) {
	s := &t.scanners[d]
	ahead := *s
	n, event := ahead.Next(p)
	switch event {
	case frame.None:
		return 0, withhold, nothing
	case frame.Violation:
		return 0, withhold, broken
	}
	h := ahead.Header()
	if withClose && h.Opcode == frame.Close {
		return 0, withhold, farewell
	}
	if !t.admit(d, h) {
		return 0, withhold, tooBig
	}
	*s = ahead
	return n, pass, nothing
}

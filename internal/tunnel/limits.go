package tunnel

import (
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// isLimited reports whether anything limits the messages of a direction.
func (t *Tunnel) isLimited(d relay.Direction) bool {
	return t.options.MaxMessage > 0 || t.isRated(d)
}

// isRated reports whether the rate of a direction's messages is limited. That
// of an upstream, which is the operator's own, is not.
func (t *Tunnel) isRated(d relay.Direction) bool {
	return t.options.MessageEvery > 0 && d == relay.ClientToUpstream
}

// admit judges a frame by the limits for messages, and counts it.
func (t *Tunnel) admit(d relay.Direction, h frame.Header) judgement {
	l, isData := &t.inspector.directions[d], !h.Opcode.IsControl()
	size := l.message
	if isData {
		size = h.Length
		if h.Opcode == frame.Continuation {
			size += l.message // both are below 1<<63
		}
		if limit := t.options.MaxMessage; limit > 0 && size > limit {
			return judgement{finding: tooBig}
		}
	}
	if t.isRated(d) && h.Opcode != frame.Close { // of which there is one
		if wait := t.takeTurn(l, isData && h.Opcode != frame.Continuation); wait > 0 && t.options.RefuseFast {
			return judgement{finding: tooFast}
		} else if wait > 0 {
			return judgement{finding: tooEarly, wait: wait}
		}
	}
	l.message = size
	return judgement{}
}

// framesPerMessage is how many frames of any kind the rate has room for in the place
// of a message. Control frames and empty fragments cost the upstream as much as
// messages do.
const framesPerMessage = 10

// takeTurn counts a frame, and the message that it begins if it does, if the rates
// allow for it now; otherwise it returns how long that takes.
func (t *Tunnel) takeTurn(l *direction, isMessage bool) (wait time.Duration) {
	now, p := time.Since(t.opened), t.options
	every := p.MessageEvery / framesPerMessage
	wait = l.nextFrame.early(now, p.MessageAhead+p.MessageEvery-every)
	if isMessage {
		wait = max(wait, l.nextMessage.early(now, p.MessageAhead))
	}
	if wait > 0 {
		return wait
	}
	l.nextFrame.take(now, every)
	if isMessage {
		l.nextMessage.take(now, p.MessageEvery)
	}
	return 0
}

// bucket is a token bucket in the form of the time when it would be full again, since
// the tunnel was opened.
type bucket time.Duration

// early returns how much too early it is to take something, if a burst may use ahead
// in advance; otherwise it is not positive.
func (b *bucket) early(now, ahead time.Duration) time.Duration {
	return max(time.Duration(*b), now) - now - ahead
}

func (b *bucket) take(now, every time.Duration) {
	*b = bucket(max(time.Duration(*b), now) + every)
}

// toBoundary is ToBoundary that stops behind a Close frame, too.
func toBoundary(s *frame.Scanner, p []byte) (n int, ok bool) {
	for !s.AtBoundary() && !s.Closed() {
		m, event := s.Next(p[n:])
		if n += m; event == frame.None {
			return n, false
		}
	}
	return n, s.AtBoundary()
}

// refuse ends the tunnel because of what follows in p after what v passes. The
// destination is at a frame boundary there.
func (t *Tunnel) refuse(d relay.Direction, found finding, v relay.Verdict, p []byte) relay.Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuseLocked(d, found)
	return after(v, t.inspectEndingLocked(d, &t.scanners[d], p[v.Pass:]))
}

// refuseLocked ends the tunnel because of what has come at a frame boundary of
// direction d, unless it ends already. Nothing more of its source is passed on.
func (t *Tunnel) refuseLocked(d relay.Direction, found finding) {
	l := &t.inspector.directions[d]
	if d == relay.ClientToUpstream {
		rest := t.scanners[d]
		rest.BeLenient() // what breaks the protocol is still a frame before its Close
		rest.Scan(l.held)
		t.inspector.refused = &rest
	}
	l.held = nil
	if !t.IsOpen() {
		return
	}
	why, code := refusedFor(found, source(d))
	if d == relay.UpstreamToClient {
		t.inspector.upstreamCode, code = code, frame.StatusGoingAway
	}
	t.inspector.blamed = source(d)
	t.endLocked(Ending{Reason: why, Code: code})
}

// refusedFor is the reason for the end of a tunnel because of what p has sent,
// and the status of the Close for p (RFC 6455 section 7.4.1).
func refusedFor(found finding, p Peer) (why Reason, code uint16) {
	switch found {
	case tooBig:
		return MessageTooBig, frame.StatusMessageTooBig
	case tooFast:
		return RateLimited, frame.StatusPolicyViolation
	}
	// Nobody can say any more what its messages are.
	return violated(p), frame.StatusProtocolError
}

// discardLocked is what becomes of a client's bytes after a frame that was
// refused, up to its answer to our Close. Neither that nor the end has to wait
// for the upstream, which is told as soon as the client is.
func (t *Tunnel) discardLocked(s *frame.Scanner, p []byte) relay.Verdict {
	rest := t.inspector.refused
	rest.Scan(p)
	if rest.Closed() {
		t.noteCloseLocked(Client, rest.CloseCode())
		t.tellUpstream = true
		t.lingerLocked()
		return t.shutLocked(relay.ClientToUpstream, s, p)
	}
	v := relay.Verdict{Drop: len(p)}
	if t.notice == nil {
		v.Insert = t.closeUpstreamLocked(s)
	}
	return v
}

// closeUpstreamLocked returns the Close for the upstream, or nothing if none
// may be sent.
func (t *Tunnel) closeUpstreamLocked(s *frame.Scanner) []byte {
	if t.opaque || !s.AtBoundary() {
		return nil
	}
	code := uint16(frame.StatusGoingAway)
	if t.inspector != nil && t.inspector.upstreamCode != 0 {
		code = t.inspector.upstreamCode
	}
	raw := frame.AppendClose(nil, code, "", frame.NewMask())
	s.Scan(raw) // so that nothing is put after it
	t.noteCloseLocked(Proxy, code)
	return raw
}

// closedBy is the peer whose doing the end of the tunnel is.
func (t *Tunnel) closedBy() Peer {
	if t.inspector != nil && t.inspector.blamed != "" {
		return t.inspector.blamed
	}
	return t.why.ClosedBy()
}

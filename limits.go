package websocketproxy

import (
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// admit reports whether the message to which a frame belongs is within its
// limit so far.
func (t *tunnel) admit(d relay.Direction, h frame.Header) bool {
	l := &t.guard.lanes[d]
	switch {
	case h.Opcode.IsControl():
		return true // at most 125 bytes, and maybe inside of a message
	case h.Opcode != frame.Continuation:
		l.message = 0
	}
	l.message += h.Length // both are below 1<<63
	return l.message <= t.policy.maxMessage
}

// refuse ends the tunnel because of what follows in p after what v passes. The
// destination is at a frame boundary there.
func (t *tunnel) refuse(d relay.Direction, found finding, v relay.Verdict, p []byte) relay.Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuseLocked(d, found)
	return after(v, t.inspectEndingLocked(d, &t.scanners[d], p[v.Pass:]))
}

// refuseLocked ends the tunnel because of what has come at a frame boundary of
// direction d, unless it ends already. Nothing more of its source is passed on.
func (t *tunnel) refuseLocked(d relay.Direction, found finding) {
	l := &t.guard.lanes[d]
	if d == relay.ClientToUpstream {
		rest := t.scanners[d]
		rest.Scan(l.held)
		t.guard.refused = &rest
	}
	l.held = nil
	if !t.isOpen() {
		return
	}
	t.guard.blamed = source(d)
	why, code := messageTooBig, uint16(frame.StatusMessageTooBig)
	if found == broken {
		// Nobody can say any more how large its messages are.
		why, code = violated(source(d)), frame.StatusProtocolError
	}
	if d == relay.UpstreamToClient {
		t.guard.upstreamCode, code = code, frame.StatusGoingAway
	}
	t.endLocked(why, code)
}

// discardLocked is what becomes of a client's bytes after a frame that was
// refused, up to its answer to our Close. Neither that nor the end has to wait
// for the upstream, which is told as soon as the client is.
func (t *tunnel) discardLocked(s *frame.Scanner, p []byte) relay.Verdict {
	rest := t.guard.refused
	rest.Scan(p)
	if rest.Closed() {
		t.noteCloseLocked(client, rest.CloseCode())
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
func (t *tunnel) closeUpstreamLocked(s *frame.Scanner) []byte {
	if t.opaque || !s.AtBoundary() {
		return nil
	}
	code := uint16(frame.StatusGoingAway)
	if t.guard != nil && t.guard.upstreamCode != 0 {
		code = t.guard.upstreamCode
	}
	raw := frame.AppendClose(nil, code, "", newMask())
	s.Scan(raw) // so that nothing is put after it
	t.noteCloseLocked(proxy, code)
	return raw
}

// closedBy is the peer whose doing the end of the tunnel is.
func (t *tunnel) closedBy() peer {
	if t.guard != nil && t.guard.blamed != "" {
		return t.guard.blamed
	}
	return t.why.closedBy()
}

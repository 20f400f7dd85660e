package tunnel

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// inspector is what a tunnel has only if limits or pings are configured for it. Its
// frames are then judged by their headers before these are passed on.
//
// What cannot be judged yet is withheld: a header that is not complete, and the
// payload of a pong that may be the answer to a ping of ours. The scanner of a
// direction follows what its destination gets, so both stand at a frame
// boundary meanwhile, whatever the judgement. What is withheld when the source
// ends its stream is part of no whole frame and is dropped.
type inspector struct {
	directions [2]direction
	// pingStates are the peers as the sweep sees them, by the direction that they
	// are the source of. They belong to the sweep.
	pingStates [2]pingState
	// nonce marks the pings of this tunnel.
	nonce [nonceSize]byte
	// watched are the peers that are to react to a ping, if their time to do so may begin
	// anew in the next round. It belongs to the sweep, and is here as there is room.
	watched [2]bool

	// What follows is guarded by the tunnel's mu.

	// pings counts the pings that were put in.
	pings uint32
	// blamed is the peer whose fault the end of the tunnel is, if the reason
	// does not tell.
	blamed Peer
	// upstreamCode is the status of the Close for the upstream, if it is not
	// the usual one.
	upstreamCode uint16
	// refused is set when a frame of the client was refused. It follows what
	// comes after that, all of which is discarded.
	refused *frame.Scanner
}

// direction is one direction of an inspected tunnel. What is not atomic belongs to the
// direction's writer.
type direction struct {
	// held is the beginning of a frame that was withheld.
	held []byte
	// message is the size of the message that is passing, as far as known.
	message uint64
	// nextMessage and nextFrame are for the rates of messages and of frames of any
	// kind.
	nextMessage, nextFrame bucket
	// heard is set when bytes of the application have come, and reset when the
	// sweep has taken note of that.
	heard atomic.Bool
	// due is set while a ping is to be put in.
	due atomic.Bool
	// pingedAt is when the last ping of ours was put in, since the tunnel was opened, and
	// ping its number.
	pingedAt atomic.Int64
	ping     atomic.Uint32
	// pinged is set when the source may have got a ping of ours.
	pinged atomic.Bool
	// owing is set while the destination has not answered the application's
	// last ping.
	owing atomic.Bool
	// passing is how far a ping of the application has passed.
	passing progress
	// asking is set while a ping is on its way, and tells how much had come from
	// the destination before: one more than the number of bytes. The writer has
	// to tell as soon as it is ready.
	asking uint64
	// asked is the same of a ping that the destination has got.
	asked atomic.Uint64
}

// progress is how far a frame has passed.
type progress uint8

const (
	absent progress = iota
	begun
	complete
)

// finding is what makes a look at the bytes of a direction stop.
type finding uint8

const (
	// nothing: the frame may pass, or all of them.
	nothing finding = iota
	// stopped: the scanner has nothing more to follow.
	stopped
	// undecided: there is not enough of the frame yet.
	undecided
	// ourPong: the frame is a pong to a ping of ours.
	ourPong
	// pingDue: a ping may be put in here.
	pingDue
	// tooEarly: the rate of messages is exceeded, and this one has to wait.
	tooEarly
	// tooFast: the rate of messages is exceeded, and this one is refused.
	tooFast
	// tooBig: the message is larger than allowed.
	tooBig
	// broken: a violation of the protocol begins here that must not pass.
	broken
	// closeFrame: a Close frame of which nothing was passed on begins here.
	closeFrame
)

// judgement is what was found out about a frame.
type judgement struct {
	finding
	// size is how many bytes of it are passed or swallowed.
	size int
	// wait is how long one that is tooEarly has to.
	wait time.Duration
}

func newInspector(p *Options) *inspector {
	if p.MaxMessage == 0 && p.MessageEvery == 0 && p.Ping == 0 {
		return nil
	}
	g := new(inspector)
	if p.Ping > 0 {
		g.nonce = newNonce()
	}
	return g
}

// inspectFrames is Inspect of an open tunnel with an inspector.
func (t *Tunnel) inspectFrames(d relay.Direction, s *frame.Scanner, p []byte) relay.Verdict {
	l := &t.inspector.directions[d]
	if len(p) == 0 {
		t.written(d, l, s)
	}
	v, found := relay.Verdict{Pass: len(p)}, nothing
	switch {
	case s.Closed() && t.isRated(d):
		v = relay.Verdict{Drop: len(p)} // the rate does not count it, and no peer needs it
	case !s.Closed() && !s.Opaque():
		v, found = t.follow(d, p, false)
	}
	if v.Pass > 0 {
		l.hear()
	}
	if l.passing == complete {
		t.pingPassed(d)
	}
	switch found {
	case nothing:
		v.Ahead = s.Ahead() // frames that have begun are admitted whole
	case stopped:
		t.stopScanning(d, s)
	case pingDue:
		v.Insert = t.takePing(d, s)
	case tooBig, tooFast, broken:
		v = t.refuse(d, found, v, p)
	}
	return v
}

// written is called when nothing is left to be written in a direction.
func (t *Tunnel) written(d relay.Direction, l *direction, s *frame.Scanner) {
	if l.asking != 0 {
		t.pingDelivered(d)
	}
	if s.Closed() {
		t.closeTaken(d)
	}
}

// awaitInspectedLocked is awaitAnswerLocked of a tunnel with an inspector.
func (t *Tunnel) awaitInspectedLocked(s *frame.Scanner, p []byte) relay.Verdict {
	const d = relay.ClientToUpstream
	if t.inspector.refused != nil {
		return t.discardLocked(s, p)
	}
	v, found := t.follow(d, p, t.inspector.upstreamCode != 0)
	switch found {
	case stopped:
		if s.Closed() {
			t.noteCloseLocked(Client, s.CloseCode())
			t.lingerLocked()
			v.Shut = true
		}
	case pingDue:
		t.inspector.directions[d].due.Store(false)
	case closeFrame:
		t.tellUpstream = true
		t.lingerLocked()
		return after(v, t.shutLocked(d, s, p[v.Pass:]))
	case tooBig, tooFast, broken:
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
func (t *Tunnel) follow(d relay.Direction, p []byte, withClose bool) (relay.Verdict, finding) {
	l, s := &t.inspector.directions[d], &t.scanners[d]
	if len(l.held) > 0 {
		return t.resume(d, p, withClose)
	}
	for i := 0; ; {
		n, boundary := toBoundary(s, p[i:])
		i += n
		if boundary && l.passing == begun {
			l.passing = complete
		}
		switch {
		case s.Closed() && t.isRated(d):
			return relay.Verdict{Pass: i, Drop: len(p) - i}, stopped
		case s.Closed() || s.Opaque():
			return relay.Verdict{Pass: len(p)}, stopped
		case boundary && l.due.Load() && (i > 0 || len(p) == 0): // something has to be used up
			return relay.Verdict{Pass: i}, pingDue
		case !boundary || i == len(p):
			return relay.Verdict{Pass: len(p)}, nothing
		}
		j := t.judge(d, p[i:], withClose)
		switch j.finding {
		case nothing:
			i += j.size
		case undecided:
			l.hold(t, d, slices.Clone(p[i:]))
			return relay.Verdict{Pass: i, Drop: len(p) - i}, nothing
		default:
			return relay.Verdict{Pass: i, Drop: j.size, Wait: j.wait}, j.finding
		}
	}
}

// longestHead is how much of a frame decides about it: the longest header has
// 14 bytes, that of a pong to our ping and its payload have 18.
const longestHead = 6 + pingSize

// resume judges the frame of which the beginning is withheld.
func (t *Tunnel) resume(d relay.Direction, p []byte, withClose bool) (relay.Verdict, finding) {
	l, s := &t.inspector.directions[d], &t.scanners[d]
	switch {
	case len(p) > 0:
	case l.due.Load():
		return relay.Verdict{}, pingDue
	default:
		return relay.Verdict{}, nothing
	}
	was := len(l.held)
	head := slices.Concat(l.held, p[:min(len(p), longestHead-was)])
	j := t.judge(d, head, withClose)
	switch j.finding {
	case nothing:
	case undecided:
		l.hold(t, d, head)
		return relay.Verdict{Drop: len(head) - was}, nothing
	case ourPong:
		l.held = nil
		return relay.Verdict{Drop: j.size - was}, ourPong
	default:
		return relay.Verdict{Wait: j.wait}, j.finding
	}
	l.held = nil
	l.hear()
	t.passed[d] += uint64(j.size)
	t.dropped[d].Add(-int64(j.size))
	s.Scan(nil) // a frame without payload ends here
	if l.passing == begun && s.AtBoundary() {
		l.passing = complete
	}
	found := nothing
	if s.Closed() || s.Opaque() {
		found = stopped
	}
	return relay.Verdict{Insert: head[:j.size], Drop: j.size - was}, found
}

// hold withholds the beginning of a frame.
func (l *direction) hold(t *Tunnel, d relay.Direction, head []byte) {
	l.held = head
	if !t.mayBeOurs(d, head) {
		l.hear()
	}
}

// hear notes that bytes of the application have come. It is called for each
// chunk, and a store costs more than a look.
func (l *direction) hear() {
	if !l.heard.Load() {
		l.heard.Store(true)
	}
}

// judge looks at the frame that begins with p, at a boundary. If it may pass,
// the scanner takes the bytes that do. Nothing else moves it.
func (t *Tunnel) judge(d relay.Direction, p []byte, withClose bool) judgement {
	l, s := &t.inspector.directions[d], &t.scanners[d]
	ahead := *s
	n, event := ahead.Next(p)
	switch {
	case event == frame.None:
		return judgement{finding: undecided}
	case event == frame.Violation && t.isLimited(d):
		return judgement{finding: broken}
	case event == frame.Violation:
		*s = ahead
		return judgement{size: n}
	}
	h := ahead.Header()
	maybeOurs := h.Opcode == frame.Pong && t.mayBeOurs(d, p)
	var payload []byte
	switch {
	case withClose && h.Opcode == frame.Close:
		return judgement{finding: closeFrame}
	case maybeOurs:
		payload = p[n:min(len(p), n+pingSize)]
		if found := t.judgePong(d, h.Mask, payload); found != nothing {
			return judgement{finding: found, size: n + len(payload)}
		}
	}
	if j := t.admit(d, h); j.finding != nothing {
		return j
	}
	switch {
	case h.Opcode == frame.Ping:
		l.passing = begun
		l.owing.Store(true)
	case maybeOurs:
		ahead.Scan(payload)
	case h.Opcode == frame.Pong:
		t.inspector.directions[d.Opposite()].owing.Store(false)
	}
	*s = ahead
	return judgement{size: n + len(payload)}
}

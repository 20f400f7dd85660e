package tunnel

import (
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// Ending is how the proxy ends a tunnel.
type Ending struct {
	Reason Reason
	// Code and text are for the client's Close frame.
	Code uint16
	Text string
	// By is who wants that, if it is somebody by name.
	By string
}

// notice is a Close frame and its status.
type notice struct {
	frame []byte
	code  uint16
}

// end ends the tunnel for a reason without further words.
func (t *Tunnel) end(why Reason, code uint16) {
	t.End(Ending{Reason: why, Code: code})
}

// End ends the tunnel politely, for a reason of the proxy's own: with a Close
// to the client, then to the upstream, then a bounded wait. Later reasons do not
// matter.
func (t *Tunnel) End(e Ending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked(e)
}

func (t *Tunnel) endLocked(e Ending) {
	if !t.IsOpen() {
		return
	}
	t.endedBy = e.By
	if !t.gone {
		t.why = e.Reason
	}
	if t.opaque || t.gone || t.ended[relay.UpstreamToClient] {
		// The client cannot be told.
		t.tellUpstream = true
		t.lingerLocked()
		return
	}
	t.notice = &notice{frame.AppendClose(nil, e.Code, e.Text, nil), e.Code}
	t.phase.Store(int32(closing))
	answerTime := closeAnswerTime
	if e.Reason == Shutdown {
		answerTime = shutdownAnswerTime
	}
	t.startTimerLocked(answerTime, t.unanswered)
	t.relay.Wake(relay.UpstreamToClient)
}

// inspectEnding is Inspect while the tunnel ends.
func (t *Tunnel) inspectEnding(d relay.Direction, s *frame.Scanner, p []byte) relay.Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inspectEndingLocked(d, s, p)
}

func (t *Tunnel) inspectEndingLocked(d relay.Direction, s *frame.Scanner, p []byte) relay.Verdict {
	switch {
	case phase(t.phase.Load()) == lingering:
		return t.shutLocked(d, s, p)
	case d == relay.ClientToUpstream && t.inspector != nil:
		return t.awaitInspectedLocked(s, p)
	case d == relay.ClientToUpstream:
		return t.awaitAnswerLocked(s, p)
	case t.notice != nil:
		return t.sendNoticeLocked(s, p)
	}
	return relay.Verdict{Drop: len(p)}
}

// sendNoticeLocked passes on what is left of a frame of the upstream's and puts
// our Close after it.
func (t *Tunnel) sendNoticeLocked(s *frame.Scanner, p []byte) relay.Verdict {
	n, boundary := s.ToBoundary(p)
	v := relay.Verdict{Pass: n}
	switch {
	case boundary:
		v.Insert = t.notice.frame
		t.noteCloseLocked(Proxy, t.notice.code)
	case s.Closed():
		t.noteCloseLocked(Upstream, s.CloseCode()) // that will do
	case s.Opaque():
		t.opaque = true
	default:
		return v // the frame goes on
	}
	t.notice, v.Drop = nil, len(p)-n
	if t.ended[relay.ClientToUpstream] || t.closeFrom == Client {
		v.Shut = true // there is no answer to wait for
		t.lingerLocked()
	}
	if t.inspector != nil && t.inspector.refused != nil {
		t.relay.Wake(relay.ClientToUpstream) // the upstream can be told now
	}
	return v
}

// awaitAnswerLocked passes on what the client sends, until its Close.
func (t *Tunnel) awaitAnswerLocked(s *frame.Scanner, p []byte) relay.Verdict {
	s.Scan(p)
	if !s.Closed() {
		return relay.Verdict{Pass: len(p)}
	}
	t.noteCloseLocked(Client, s.CloseCode())
	t.lingerLocked()
	return relay.Verdict{Pass: len(p), Shut: true}
}

// shutLocked is the verdict that ends a direction, with a Close for the
// upstream if that is due and possible.
func (t *Tunnel) shutLocked(d relay.Direction, s *frame.Scanner, p []byte) relay.Verdict {
	v := relay.Verdict{Drop: len(p), Shut: true}
	switch {
	case d == relay.ClientToUpstream && t.tellUpstream:
		v.Insert = t.closeUpstreamLocked(s)
	case d == relay.UpstreamToClient && t.notice != nil && s.AtBoundary():
		// It had to wait for what was being written.
		v.Insert = t.notice.frame
		t.noteCloseLocked(Proxy, t.notice.code)
		t.notice = nil
	}
	return v
}

// unanswered ends the wait for the client's answer to our Close.
func (t *Tunnel) unanswered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tellUpstream = true
	t.lingerLocked()
}

// linger ends a wait for a peer that should have closed its connection.
func (t *Tunnel) linger() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lingerLocked()
}

// lingerLocked tells both peers that nothing more will come, and bounds the
// wait for their ends.
func (t *Tunnel) lingerLocked() {
	if phase(t.phase.Load()) == lingering {
		return
	}
	t.phase.Store(int32(lingering))
	t.startTimerLocked(lingerTime, t.relay.Abort)
	t.relay.Wake(relay.ClientToUpstream)
	t.relay.Wake(relay.UpstreamToClient)
}

// startTimerLocked replaces the timer of the phase. When the client has gone there is
// one for all that is left.
func (t *Tunnel) startTimerLocked(after time.Duration, f func()) {
	if t.gone {
		return
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.timer = time.AfterFunc(after, f)
}

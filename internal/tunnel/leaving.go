package tunnel

import (
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// A client that has gone takes its tunnel with it (RFC 9113 section 8.5, RFC 9114
// section 4.4). What it has sent before is passed on if that takes no time, and
// then the upstream is told by a reset, unless it knows of a regular end.

const (
	// leaveTime is how long a tunnel may last when its client has gone.
	leaveTime = 800 * time.Millisecond
	// takenInterval is how often is asked whether the upstream's system has what
	// was passed on.
	takenInterval = 10 * time.Millisecond
)

// ClientGone is called when there is nobody at the other end of the client's
// connection any more, in neither direction. A relay learns that only when it reads
// or writes there, which it does not while an upstream takes or sends nothing.
func (t *Tunnel) ClientGone(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone || phase(t.phase.Load()) == lingering {
		return // which takes no longer than a second
	}
	if !t.IsOpen() {
		t.tellUpstream = true // as no answer to our Close will come
		t.lingerLocked()
		return
	}
	if t.why == "" {
		t.why = failed(Client, err)
	}
	t.startTimerLocked(leaveTime, t.leave)
	t.gone = true
	if t.ended[relay.ClientToUpstream] || t.closeFrom == Client || t.answered {
		t.lingerLocked() // there are no last words
	}
}

// leave ends the relay.
func (t *Tunnel) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.resets || t.IsOpen() && t.isFailureOfClient() {
		t.relay.Reset(relay.ClientToUpstream)
	} else {
		t.relay.Abort()
	}
}

func (t *Tunnel) isFailureOfClient() bool {
	return t.why == ClientReset || t.why == ClientLost || t.why == ClientError
}

// Resets implements relay.Hooks. The upstream is told by a reset that the client's
// connection has failed. A Close of the client makes it a regular end, and after one
// of ours the tunnel is not open.
func (t *Tunnel) Resets(d relay.Direction, end relay.End) bool {
	if d != relay.ClientToUpstream {
		// Clients without a Close know that it was none. HTTP/2's server can only
		// say INTERNAL_ERROR, and what it was given before might get lost.
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noteEndLocked(d, end)
	t.resets = t.IsOpen() && t.isFailureOfClient()
	return t.resets
}

// resetLocked resets the upstream when its system has all that was passed on.
func (t *Tunnel) resetLocked() {
	t.phase.Store(int32(lingering))
	t.startTimerLocked(leaveTime, t.leave)
	t.relay.Wake(relay.UpstreamToClient)
	t.resetWhenTakenLocked()
}

func (t *Tunnel) resetWhenTakenLocked() {
	if t.relay.Backlog(relay.ClientToUpstream) == 0 {
		t.relay.Reset(relay.ClientToUpstream)
		return
	}
	time.AfterFunc(takenInterval, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.resetWhenTakenLocked()
	})
}

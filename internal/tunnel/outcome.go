package tunnel

import (
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// Outcome is what is known of a tunnel when it has ended.
type Outcome struct {
	About

	Reason   Reason
	ClosedBy Peer   // who is to blame
	EndedBy  string // who has ended it, if that is somebody by name
	// CloseCode is the status of the first Close frame, closeFrom its sender; zero
	// and empty without one.
	CloseCode uint16
	CloseFrom Peer
	Opened    time.Time
	Traffic
	Meter Meter
}

// Traffic is counts of bytes on the wire, and of messages that have ended. Directions are
// seen from the client: in is what it has sent.
type Traffic struct {
	BytesIn, BytesOut       uint64
	MessagesIn, MessagesOut uint64
}

// Snapshot is what is known of a live tunnel.
type Snapshot struct {
	About
	Traffic

	Opened time.Time
	Active time.Time // when anything was last seen to happen, to about a second
	// Expires is when what the client has come with expires; zero means never.
	Expires time.Time
	// BytesRate and MessagesRate are per second, in both directions together, over
	// about the last ten seconds.
	BytesRate, MessagesRate float64
}

// Snapshot is what is known of the tunnel now. It has to have started.
func (t *Tunnel) Snapshot() Snapshot {
	var slept time.Duration
	if t.deadlines.Load() != nil {
		slept = t.live.slept()
	}
	return t.snapshot(time.Now(), slept)
}

// snapshot is Snapshot at a time by the clock on the wall, when the machine has slept for
// so long.
func (t *Tunnel) snapshot(now time.Time, slept time.Duration) Snapshot {
	_, in := t.relay.Counts(relay.ClientToUpstream)
	_, out := t.relay.Counts(relay.UpstreamToClient)
	in, out = t.passedOf(relay.ClientToUpstream, in), t.passedOf(relay.UpstreamToClient, out)
	active := time.Unix(0, t.active.Load())
	bytes, messages := t.rates.now(now.Sub(active))
	return Snapshot{
		About:        t.About,
		Opened:       t.opened,
		Active:       active,
		Expires:      t.expires(now, slept),
		BytesRate:    bytes,
		MessagesRate: messages,
		Traffic:      Traffic{in, out, t.messages[relay.ClientToUpstream].Load(), t.messages[relay.UpstreamToClient].Load()},
	}
}

// outcome may be called when the relay has ended.
func (t *Tunnel) outcome() Outcome {
	return Outcome{
		About:     t.About,
		Reason:    t.why,
		ClosedBy:  t.closedBy(),
		EndedBy:   t.endedBy,
		CloseCode: t.closeCode,
		CloseFrom: t.closeFrom,
		Opened:    t.opened,
		Meter:     t.Meter,
		Traffic: Traffic{
			t.passed[relay.ClientToUpstream], t.passed[relay.UpstreamToClient],
			t.scanners[relay.ClientToUpstream].Messages(), t.scanners[relay.UpstreamToClient].Messages(),
		},
	}
}

// Over is closed when the tunnel has ended, and nothing of it is in use any more.
func (t *Tunnel) Over() <-chan struct{} {
	return t.done
}

// Package tunnel keeps the open tunnels of a process: it follows their frames, decides
// when one has to end, ends it politely, and knows why it did. It knows neither whose
// a tunnel is nor why its upstream may be gone: its [Owner] does.
//
// A tunnel's lock may be held when its shard's, which is a leaf, is taken, and when the relay
// is woken; the writer's lock of a relay may be held when a tunnel's is taken. None is held
// while an owner is asked or told.
package tunnel

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

const (
	// closeAnswerTime is how long a client may take to answer our Close.
	closeAnswerTime = 2 * time.Second
	// lingerTime is how long what the peers still send is read and discarded
	// after both have been told the end. Closing at once would reset
	// connections and lose what is on its way.
	lingerTime = time.Second
	// drainTime is how long a peer that takes nothing more is still
	// listened to. Usually its connection is broken altogether, which ends it
	// as soon as everything that had come before has been passed on.
	drainTime = 10 * time.Second
)

// Owner is who a tunnel belongs to. It knows why the tunnel may have to go, and what
// was held for it.
type Owner interface {
	// MustGo tells whether the tunnel has to end, and how. It is asked as soon as
	// the tunnel can be found by others: whatever ends tunnels decides that first and
	// then looks for them, so a tunnel that has come too late to be found sees what
	// was decided.
	MustGo() (Ending, bool)
	// Ended is told once, before the registry forgets the tunnel.
	Ended(Outcome)
}

// Options is what a handler's configuration says about its tunnels. It is
// shared by all of them, never changes, and is all that a tunnel keeps of the
// configuration, but for its owner. Zero times mean no limit.
type Options struct {
	Idle, Write, HalfClose, MaxLifetime time.Duration
	Jitter                              float64
	Ping, PingTimeout                   time.Duration
	// MaxMessage is the most payload bytes of a message; zero means no limit.
	MaxMessage uint64
	// MessageEvery is the time that the rate of messages leaves for each, zero
	// for no limit; MessageAhead is how much of it a burst may use in advance,
	// and RefuseFast tells that more is refused, not delayed.
	MessageEvery, MessageAhead time.Duration
	RefuseFast                 bool
	// Shutdown is the time for all tunnels when the process exits.
	Shutdown time.Duration
}

// phase is how far the end of a tunnel has come.
type phase int32

const (
	// open: bytes flow.
	open phase = iota
	// inspected is the same for a tunnel that has an inspector.
	inspected
	// closing: the proxy ends the tunnel. The client has been sent a Close, or
	// will be at the next frame boundary, and what follows from the upstream is
	// discarded; the client's answer is awaited.
	closing
	// lingering: both connections are half-closed by us, and what they still
	// bring is discarded.
	lingering
)

// IsOpen reports whether the tunnel has not begun to end.
func (t *Tunnel) IsOpen() bool { return phase(t.phase.Load()) <= inspected }

// Tunnel is a pair of connections between which bytes are relayed. It follows
// the frames, decides when it has to end, and knows why it did.
type Tunnel struct {
	// What the sweep looks at comes first and together.

	// due is when it looks at the latest, since the registry was made. That and index, its
	// place there, are guarded by the shard's mu.
	due       time.Duration
	index     int
	options   *Options
	relay     relay.Relay
	inspector *inspector // nil if nothing needs it
	// deadlines are nil if there are none. What they point to does not change.
	deadlines atomic.Pointer[[]Deadline]
	seen      activity
	// active is when the sweep has last seen that something had happened, in
	// nanoseconds since 1970.
	active atomic.Int64
	phase  atomic.Int32
	// touched is set while the tunnel is on its shard's list of those that the sweep is to
	// look at, and before it has started.
	touched atomic.Bool

	mu sync.Mutex // guards what follows, up to timer
	// ended tells which directions have ended, and failed which of them
	// because of their destination.
	ended, failed [2]bool
	// resets tells that the upstream is to be reset, and gone that there is no
	// client any more.
	resets, gone bool
	// opaque is set when a peer has violated the protocol: nobody can say any
	// more where its frames end, or whether these are frames.
	opaque bool
	// why is the first cause of an end, and whatever makes the proxy end the
	// tunnel.
	why Reason
	// endedBy is who has ended it, if that is somebody by name.
	endedBy string
	// closeCode is the status of the first Close frame, closeFrom its sender.
	// answered tells that the other peer has sent one too, in the direction
	// answering, and parted that it has arrived.
	closeCode uint16
	closeFrom Peer
	answered  bool
	answering relay.Direction
	parted    bool
	// notice is the Close for the client while it has not been sent.
	notice *notice
	// tellUpstream is set while a Close for the upstream is due, because no
	// answer of the client to ours has come.
	tellUpstream bool
	metered      metered
	timer        *time.Timer // of the phase

	// scanners follow the frames of each direction, and passed counts the bytes
	// that were passed on. Both belong to the direction's writer.
	scanners [2]frame.Scanner
	passed   [2]uint64
	// messages are the scanners' counts, for others.
	messages [2]atomic.Uint64
	// dropped counts the bytes of each direction that were not passed on.
	dropped [2]atomic.Int64
	rates   rates

	About

	Owner  Owner
	Meter  Meter // nil: none
	opened time.Time
	live   *Registry
	done   chan struct{}
}

// New makes a tunnel that has not started.
func New(a About, options *Options, live *Registry, o Owner) *Tunnel {
	t := &Tunnel{
		About:     a,
		options:   options,
		live:      live,
		Owner:     o,
		done:      make(chan struct{}),
		inspector: newInspector(options),
	}
	if t.inspector != nil {
		t.phase.Store(int32(inspected))
	}
	t.touched.Store(true)
	t.scanners[relay.ClientToUpstream] = frame.NewScanner(true)
	t.scanners[relay.UpstreamToClient] = frame.NewScanner(false)
	return t
}

// Start has begin make a relay between the connections, which the tunnel owns from
// here on. random returns a number in [0, 1).
func (t *Tunnel) Start(begin func(relay.Hooks) relay.Relay, random func() float64) {
	t.setTimes(time.Now(), random)
	t.run(begin)
	if t.live.exit.hasBegun() {
		t.end(Shutdown, frame.StatusGoingAway)
	} else if e, must := t.Owner.MustGo(); must {
		t.End(e)
	}
}

func (t *Tunnel) run(begin func(relay.Hooks) relay.Relay) {
	// The lock keeps hooks that come before begin returns from using a relay
	// that is not there yet, and the last one from leaving before add.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.relay = begin(t)
	t.live.add(t)
	t.beginMeterLocked()
}

// Inspect implements relay.Hooks.
func (t *Tunnel) Inspect(d relay.Direction, p []byte) relay.Verdict {
	s := &t.scanners[d]
	if !t.touched.Load() {
		t.touch()
	}
	if phase(t.phase.Load()) != open {
		return t.inspectClosely(d, s, p)
	}
	switch {
	case s.Closed() && len(p) == 0:
		t.closeTaken(d)
	case !s.Closed() && !s.Opaque():
		s.Scan(p)
		t.messages[d].Store(s.Messages())
		if s.Closed() || s.Opaque() {
			t.stopScanning(d, s)
		}
	}
	t.passed[d] += uint64(len(p))
	return relay.Verdict{Pass: len(p), Ahead: s.Ahead()}
}

// Skip implements relay.Hooks.
func (t *Tunnel) Skip(d relay.Direction, n int) {
	s := &t.scanners[d]
	if !t.touched.Load() {
		t.touch()
	}
	s.Skip(n)
	t.messages[d].Store(s.Messages())
	t.passed[d] += uint64(n)
	if t.inspector != nil {
		t.inspector.directions[d].hear()
	}
}

// inspectClosely is Inspect of a tunnel that is inspected or ends.
func (t *Tunnel) inspectClosely(d relay.Direction, s *frame.Scanner, p []byte) relay.Verdict {
	inspect := t.inspectEnding
	if t.IsOpen() {
		inspect = t.inspectFrames
	}
	v := inspect(d, s, p)
	t.messages[d].Store(s.Messages())
	t.passed[d] += uint64(v.Pass)
	if v.Drop > 0 {
		t.dropped[d].Add(int64(v.Drop))
	}
	return v
}

// stopScanning notes why the scanner of a direction has nothing more to follow.
func (t *Tunnel) stopScanning(d relay.Direction, s *frame.Scanner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !s.Closed() {
		t.opaque = true
		return
	}
	if t.closeFrom == "" {
		t.noteCloseLocked(source(d), s.CloseCode())
		return
	}
	t.answered, t.answering = true, d
	if t.IsOpen() {
		t.relay.Wake(d) // to know when the destination has taken it
		return
	}
	t.lingerLocked() // the end was decided a moment ago
}

// closeTaken is called when nothing is left to be written in a direction that has
// passed a Close frame. After the second one both peers have to close their
// connections. A destination that comes to it slowly has the time it needs.
func (t *Tunnel) closeTaken(d relay.Direction) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answered && t.answering == d && !t.parted && t.IsOpen() {
		t.parted = true
		t.startTimerLocked(closeAnswerTime, t.linger)
	}
}

// noteCloseLocked remembers the first Close frame.
func (t *Tunnel) noteCloseLocked(from Peer, code uint16) {
	if t.closeFrom != "" {
		return
	}
	t.closeFrom, t.closeCode = from, code
	if t.IsOpen() && !t.why.isClosed() {
		t.why = closed(from)
	}
}

// Ended implements relay.Hooks.
func (t *Tunnel) Ended(d relay.Direction, end relay.End) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[d], t.failed[d] = true, end.Err != nil && end.Writing
	t.touch()
	t.meterDirectionLocked(d)
	t.noteEndLocked(d, end)
	switch {
	case t.resets && d == relay.ClientToUpstream:
		t.resetLocked()
	case !t.mayGoOnLocked(d, end):
		t.lingerLocked()
	}
}

// mayGoOnLocked reports whether there is a use for the other direction when d
// has ended.
func (t *Tunnel) mayGoOnLocked(d relay.Direction, end relay.End) bool {
	other := d.Opposite()
	switch {
	case !t.IsOpen():
		// The client's answer to our Close is awaited.
		return d == relay.UpstreamToClient && end.Err == nil
	case t.ended[other]:
		// Of no use is only what the source of a direction with a dead
		// destination still sends.
		return end.Err == nil && !t.failed[other]
	case t.failed[d]:
		// A peer that takes nothing more may have said why: its last words
		// are on their way.
		t.startTimerLocked(drainTime, t.linger)
		return true
	}
	// After a closing handshake, when one peer closes the connection the other
	// one has only to do the same (RFC 6455 section 7.1.1).
	t.parted = t.parted || t.answered && d == t.answering
	return end.Err == nil && !t.parted
}

// Done implements relay.Hooks.
func (t *Tunnel) Done() {
	t.mu.Lock()
	t.phase.Store(int32(lingering)) // for a timer that has fired already
	if t.timer != nil {
		t.timer.Stop()
	}
	t.mu.Unlock()
	o := t.outcome()
	t.endMeter(o.Traffic)
	t.Owner.Ended(o)
	t.live.remove(t) // then the process may exit
	close(t.done)
}

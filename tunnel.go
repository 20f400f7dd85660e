package websocketproxy

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
	// lastWordsTime is how long a peer that takes nothing more is still
	// listened to. Usually its connection is broken altogether, which ends it
	// as soon as everything that had come before has been passed on.
	lastWordsTime = 10 * time.Second
)

// owner is who a tunnel belongs to. It knows why the tunnel may have to go, and what
// was held for it.
type owner interface {
	// mustGo tells whether the tunnel has to end, and how. It is asked as soon as
	// the tunnel can be found by others: whatever ends tunnels decides that first and
	// then looks for them, so a tunnel that has come too late to be found sees what
	// was decided.
	mustGo() (ending, bool)
	// ended is told once, before the registry forgets the tunnel.
	ended(outcome)
}

// about is what a tunnel is known by.
type about struct {
	// id is the same word in logs and lists; clientIP is the client's address as
	// its logs have it, upstream the address of the upstream, and handler the name
	// that the configuration gives the handler, if any.
	id, clientIP, upstream, handler string
}

// tunnelPolicy is what a handler's configuration says about its tunnels. It is
// shared by all of them, never changes, and is all that a tunnel keeps of the
// configuration, but for its owner. Zero times mean no limit.
type tunnelPolicy struct {
	idle, write, halfClose, maxLifetime time.Duration
	jitter                              float64
	ping, pingTimeout                   time.Duration
	// maxMessage is the most payload bytes of a message; zero means no limit.
	maxMessage uint64
	// messageEvery is the time that the rate of messages leaves for each, zero
	// for no limit; messageAhead is how much of it a burst may use in advance,
	// and refuseFast tells that more is refused, not delayed.
	messageEvery, messageAhead time.Duration
	refuseFast                 bool
	// shutdown is the time for all tunnels when the process exits.
	shutdown time.Duration
}

// phase is how far the end of a tunnel has come.
type phase int32

const (
	// open: bytes flow.
	open phase = iota
	// guarded is the same for a tunnel that has a guard.
	guarded
	// closing: the proxy ends the tunnel. The client has been sent a Close, or
	// will be at the next frame boundary, and what follows from the upstream is
	// discarded; the client's answer is awaited.
	closing
	// lingering: both connections are half-closed by us, and what they still
	// bring is discarded.
	lingering
)

func (t *tunnel) isOpen() bool { return phase(t.phase.Load()) <= guarded }

// tunnel is a pair of connections between which bytes are relayed. It follows
// the frames, decides when it has to end, and knows why it did.
type tunnel struct {
	// What the sweep looks at comes first and together, as it goes over all tunnels
	// once a second.
	policy  *tunnelPolicy
	relay   relay.Relay
	guard   *guard    // nil if nothing needs it
	expires time.Time // zero: never
	watch   watch
	// active is when the sweep has last seen that something had happened, in
	// nanoseconds since 1970.
	active atomic.Int64
	phase  atomic.Int32

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
	why reason
	// endedBy is who has ended it, if that is somebody by name.
	endedBy string
	// closeCode is the status of the first Close frame, closeFrom its sender.
	// answered tells that the other peer has sent one too, in the direction
	// answering, and parted that it has arrived.
	closeCode uint16
	closeFrom peer
	answered  bool
	answering relay.Direction
	parted    bool
	// notice is the Close frame for the client while it has not been sent, and
	// noticeCode its status.
	notice     []byte
	noticeCode uint16
	// tellUpstream is set while a Close for the upstream is due, because no
	// answer of the client to ours has come.
	tellUpstream bool
	timer        *time.Timer // of the phase

	// scanners follow the frames of each direction, and passed counts the bytes
	// that were passed on. Both belong to the direction's writer.
	scanners [2]frame.Scanner
	passed   [2]uint64
	// messages are the scanners' counts, for others.
	messages [2]atomic.Uint64

	about

	owner  owner
	opened time.Time
	live   *registry
	index  int // in the registry, guarded by its mu
	done   chan struct{}
}

func newTunnel(a about, policy *tunnelPolicy, live *registry, o owner) *tunnel {
	t := &tunnel{
		about:  a,
		policy: policy,
		live:   live,
		owner:  o,
		done:   make(chan struct{}),
		guard:  newGuard(policy),
	}
	if t.guard != nil {
		t.phase.Store(int32(guarded))
	}
	t.scanners[relay.ClientToUpstream] = frame.NewScanner(true)
	t.scanners[relay.UpstreamToClient] = frame.NewScanner(false)
	return t
}

// start has begin make a relay between the connections, which the tunnel owns from
// here on. random returns a number in [0, 1).
func (t *tunnel) start(begin func(relay.Hooks) relay.Relay, random func() float64) {
	t.setTimes(time.Now(), random)
	t.run(begin)
	if t.live.exit.hasBegun() {
		t.end(shutdown, frame.StatusGoingAway)
	} else if e, must := t.owner.mustGo(); must {
		t.endAs(e)
	}
}

func (t *tunnel) run(begin func(relay.Hooks) relay.Relay) {
	// The lock keeps hooks that come before begin returns from using a relay
	// that is not there yet, and the last one from leaving before add.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.relay = begin(t)
	t.live.add(t)
}

// Inspect implements relay.Hooks.
func (t *tunnel) Inspect(d relay.Direction, p []byte) relay.Verdict {
	s := &t.scanners[d]
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
func (t *tunnel) Skip(d relay.Direction, n int) {
	s := &t.scanners[d]
	s.Skip(n)
	t.messages[d].Store(s.Messages())
	t.passed[d] += uint64(n)
	if t.guard != nil {
		t.guard.lanes[d].hear()
	}
}

// inspectClosely is Inspect of a tunnel that is guarded or ends.
func (t *tunnel) inspectClosely(d relay.Direction, s *frame.Scanner, p []byte) relay.Verdict {
	inspect := t.inspectEnding
	if t.isOpen() {
		inspect = t.inspectGuarded
	}
	v := inspect(d, s, p)
	t.messages[d].Store(s.Messages())
	t.passed[d] += uint64(v.Pass)
	return v
}

// stopScanning notes why the scanner of a direction has nothing more to follow.
func (t *tunnel) stopScanning(d relay.Direction, s *frame.Scanner) {
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
	if t.isOpen() {
		t.relay.Wake(d) // to know when the destination has taken it
		return
	}
	t.lingerLocked() // the end was decided a moment ago
}

// closeTaken is called when nothing is left to be written in a direction that has
// passed a Close frame. After the second one both peers have to close their
// connections. A destination that comes to it slowly has the time it needs.
func (t *tunnel) closeTaken(d relay.Direction) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answered && t.answering == d && !t.parted && t.isOpen() {
		t.parted = true
		t.startTimerLocked(closeAnswerTime, t.linger)
	}
}

// noteCloseLocked remembers the first Close frame.
func (t *tunnel) noteCloseLocked(from peer, code uint16) {
	if t.closeFrom != "" {
		return
	}
	t.closeFrom, t.closeCode = from, code
	if t.isOpen() && !t.why.isClosed() {
		t.why = closed(from)
	}
}

// Ended implements relay.Hooks.
func (t *tunnel) Ended(d relay.Direction, end relay.End) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[d], t.failed[d] = true, end.Err != nil && end.Writing
	t.noteEndLocked(d, end)
	switch {
	case t.resets && d == relay.ClientToUpstream:
		t.resetLocked()
	case !t.mayGoOnLocked(d, end):
		t.lingerLocked()
	}
}

// noteEndLocked remembers why the first direction has ended.
func (t *tunnel) noteEndLocked(d relay.Direction, end relay.End) {
	if t.why == "" {
		t.why = endedBy(d, end)
	}
}

// mayGoOnLocked reports whether there is a use for the other direction when d
// has ended.
func (t *tunnel) mayGoOnLocked(d relay.Direction, end relay.End) bool {
	other := d.Opposite()
	switch {
	case !t.isOpen():
		// The client's answer to our Close is awaited.
		return d == relay.UpstreamToClient && end.Err == nil
	case t.ended[other]:
		// Of no use is only what the source of a direction with a dead
		// destination still sends.
		return end.Err == nil && !t.failed[other]
	case t.failed[d]:
		// A peer that takes nothing more may have said why: its last words
		// are on their way.
		t.startTimerLocked(lastWordsTime, t.linger)
		return true
	}
	// After a closing handshake, when one peer closes the connection the other
	// one has only to do the same (RFC 6455 section 7.1.1).
	t.parted = t.parted || t.answered && d == t.answering
	return end.Err == nil && !t.parted
}

// Done implements relay.Hooks.
func (t *tunnel) Done() {
	t.mu.Lock()
	t.phase.Store(int32(lingering)) // for a timer that has fired already
	if t.timer != nil {
		t.timer.Stop()
	}
	t.mu.Unlock()
	t.owner.ended(t.outcome())
	t.live.remove(t) // then the process may exit
	close(t.done)
}

// outcome is what is known of a tunnel when it has ended.
type outcome struct {
	about

	why      reason
	closedBy peer   // who is to blame
	endedBy  string // who has ended it, if that is somebody by name
	// closeCode is the status of the first Close frame, closeFrom its sender; zero
	// and empty without one.
	closeCode uint16
	closeFrom peer
	opened    time.Time
	traffic
}

// traffic is counts of bytes on the wire, and of messages that have ended. Directions are
// seen from the client: in is what it has sent.
type traffic struct {
	bytesIn, bytesOut       uint64
	messagesIn, messagesOut uint64
}

// over is closed when the tunnel has ended, and nothing of it is in use any more.
func (t *tunnel) over() <-chan struct{} {
	return t.done
}

// snapshot is what is known of a live tunnel.
type snapshot struct {
	about
	traffic

	opened time.Time
	active time.Time // when anything was last seen to happen, to about a second
}

func (t *tunnel) snapshot() snapshot {
	_, in := t.relay.Counts(relay.ClientToUpstream)
	_, out := t.relay.Counts(relay.UpstreamToClient)
	return snapshot{
		about:   t.about,
		opened:  t.opened,
		active:  time.Unix(0, t.active.Load()),
		traffic: traffic{in, out, t.messages[relay.ClientToUpstream].Load(), t.messages[relay.UpstreamToClient].Load()},
	}
}

// outcome may be called when the relay has ended.
func (t *tunnel) outcome() outcome {
	return outcome{
		about:     t.about,
		why:       t.why,
		closedBy:  t.closedBy(),
		endedBy:   t.endedBy,
		closeCode: t.closeCode,
		closeFrom: t.closeFrom,
		opened:    t.opened,
		traffic: traffic{
			t.passed[relay.ClientToUpstream], t.passed[relay.UpstreamToClient],
			t.scanners[relay.ClientToUpstream].Messages(), t.scanners[relay.UpstreamToClient].Messages(),
		},
	}
}

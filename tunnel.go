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

// tunnelPolicy is what a handler's configuration says about its tunnels. It is
// shared by all of them, never changes, and is all that a tunnel keeps of the
// configuration. Zero times mean no limit.
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
	// evict is the time over which the tunnels of an upstream are ended that is
	// not configured any more; zero means that they stay. shutdown is the time
	// for all tunnels when the process exits.
	evict, shutdown time.Duration
	// closeCode and closeText are for Close frames to the clients of tunnels
	// that have to move elsewhere.
	closeCode uint16
	closeText string
	// mustPass is the check that the upstream has to pass for its tunnels to
	// stay; empty means that they stay anyway.
	mustPass string
	// lineage finds the pool that the client would come to today.
	lineage *lineage
	// report is told the end of each tunnel.
	report func(*tunnel)
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
	// evictedBy is who has it evicted, if that is why.
	evictedBy string
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

	id           string
	clientIP     string
	upstreamHost *host
	// from is where the upstream's address comes from, if it depends on the
	// request.
	from    *provenance
	handler string       // its name
	place   *clientPlace // of the client; nil if these are not counted
	opened  time.Time
	live    *registry
	index   int // in the registry, guarded by its mu
	done    chan struct{}
}

func newTunnel(id string, policy *tunnelPolicy, live *registry, h *host, clientIP string) *tunnel {
	t := &tunnel{
		id:           id,
		clientIP:     clientIP,
		upstreamHost: h,
		policy:       policy,
		live:         live,
		done:         make(chan struct{}),
		guard:        newGuard(policy),
	}
	if t.guard != nil {
		t.phase.Store(int32(guarded))
	}
	t.scanners[relay.ClientToUpstream] = frame.NewScanner(true)
	t.scanners[relay.UpstreamToClient] = frame.NewScanner(false)
	return t
}

// start begins to relay. The tunnel owns both connections from here on.
func (t *tunnel) start(client, upstream relay.Side, random func() float64) {
	t.setTimes(time.Now(), random)
	t.run(client, upstream)
	// Whatever ends tunnels decides that first and then looks for them. A tunnel
	// that has come too late to be found sees what was decided.
	switch {
	case t.live.exit.hasBegun():
		t.end(shutdown, frame.StatusGoingAway)
	case t.isOrphan():
		t.evictOrphan()
	case t.isEvicted():
		t.evictAsSaid()
	case t.isUnhealthy():
		t.leaveUnhealthy()
	}
}

func (t *tunnel) run(client, upstream relay.Side) {
	// The lock keeps hooks that come before Start returns from using a relay
	// that is not there yet, and the last one from leaving before add.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.relay = relay.Start(client, upstream, t)
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
	hosts.tunnelEnded(t.upstreamHost)
	t.place.leave()
	t.policy.report(t)
	t.live.remove(t) // then the process may exit
	close(t.done)
}

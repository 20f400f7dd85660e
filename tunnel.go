package websocketproxy

import (
	"crypto/rand"
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
)

// tunnelPolicy is what a handler's configuration says about its tunnels. It is
// shared by all of them, never changes, and is all that a tunnel keeps of the
// configuration. Zero times mean no limit.
type tunnelPolicy struct {
	idle, write, halfClose, maxLifetime time.Duration
	jitter                              float64
	// report is told the end of each tunnel.
	report func(*tunnel)
}

// phase is how far the end of a tunnel has come.
type phase int32

const (
	// open: bytes flow.
	open phase = iota
	// closing: the proxy ends the tunnel. The client has been sent a Close, or
	// will be at the next frame boundary, and what follows from the upstream is
	// discarded; the client's answer is awaited.
	closing
	// lingering: both connections are half-closed by us, and what they still
	// bring is discarded.
	lingering
)

// tunnel is a pair of connections between which bytes are relayed. It follows
// the frames, decides when it has to end, and knows why it did.
type tunnel struct {
	id           string
	clientIP     string
	upstreamHost *host
	policy       *tunnelPolicy
	opened       time.Time
	expires      time.Time // zero: never
	live         *registry
	index        int // in the registry, guarded by its mu
	done         chan struct{}

	relay relay.Relay
	// scanners follow the frames of each direction. Each belongs to the
	// direction's writer.
	scanners [2]frame.Scanner
	watch    watch

	phase atomic.Int32

	mu sync.Mutex // guards what follows
	// why is the reason once it is known.
	why reason
	// closeCode is the status of the first Close frame, closeFrom its sender,
	// and answered tells that the other peer has sent one too.
	closeCode uint16
	closeFrom peer
	answered  bool
	// ended tells which directions have ended, firstEnded is the source of the
	// first that did.
	ended      [2]bool
	firstEnded peer
	// notice is the Close frame for the client while it has not been sent, and
	// noticeCode its status.
	notice     []byte
	noticeCode uint16
	// tellUpstream is set while a Close for the upstream is due, because the
	// client did not answer ours.
	tellUpstream bool
	timer        *time.Timer // of the phase
}

func newTunnel(id string, policy *tunnelPolicy, live *registry, h *host, clientIP string) *tunnel {
	t := &tunnel{
		id:           id,
		clientIP:     clientIP,
		upstreamHost: h,
		policy:       policy,
		live:         live,
		done:         make(chan struct{}),
	}
	t.scanners[relay.ClientToUpstream] = frame.NewScanner(true)
	t.scanners[relay.UpstreamToClient] = frame.NewScanner(false)
	return t
}

// start begins to relay. The tunnel owns both connections from here on.
func (t *tunnel) start(client, upstream relay.Side, random func() float64) {
	t.opened = time.Now()
	t.watch.activity = t.opened
	if t.policy.maxLifetime > 0 {
		shortened := float64(t.policy.maxLifetime) * (1 - t.policy.jitter*random())
		t.expires = t.opened.Add(time.Duration(shortened))
	}
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
		return t.inspectEnding(d, s, p)
	}
	if !s.Closed() {
		s.Scan(p)
		if s.Closed() {
			t.sawClose(d, s.CloseCode())
		}
	}
	return relay.Verdict{Pass: len(p)}
}

// sawClose remembers the Close frames.
func (t *tunnel) sawClose(d relay.Direction, code uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closeFrom != "" {
		t.answered = true
		return
	}
	t.closeFrom, t.closeCode = source(d), code
}

// end ends the tunnel politely, for a reason of the proxy's own: with a Close
// to the client, then to the upstream, then a bounded wait. Later reasons do not
// matter.
func (t *tunnel) end(why reason, code uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if phase(t.phase.Load()) != open {
		return
	}
	t.why, t.noticeCode = why, code
	t.notice = frame.AppendClose(nil, code, "", nil)
	t.phase.Store(int32(closing))
	t.timer = time.AfterFunc(closeAnswerTime, t.unanswered)
	t.relay.Wake(relay.UpstreamToClient)
}

// inspectEnding is Inspect while the tunnel ends.
func (t *tunnel) inspectEnding(d relay.Direction, s *frame.Scanner, p []byte) relay.Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	if phase(t.phase.Load()) == lingering {
		return t.shutLocked(d, s, p)
	}
	if d == relay.ClientToUpstream {
		return t.awaitAnswerLocked(s, p)
	}
	if t.notice == nil {
		return relay.Verdict{Drop: len(p)}
	}
	n, boundary := s.ToBoundary(p)
	v := relay.Verdict{Pass: n}
	if boundary {
		v.Insert = t.notice
		if t.closeFrom == "" {
			t.closeFrom, t.closeCode = proxy, t.noticeCode
		}
	}
	if boundary || s.Closed() || s.Opaque() {
		// Sent, or it cannot be: nothing may follow a Close, and in an opaque
		// stream it could end up inside of a frame.
		v.Drop, t.notice = len(p)-n, nil
	}
	return v
}

// awaitAnswerLocked passes on what the client sends, until its Close.
func (t *tunnel) awaitAnswerLocked(s *frame.Scanner, p []byte) relay.Verdict {
	s.Scan(p)
	if !s.Closed() {
		return relay.Verdict{Pass: len(p)}
	}
	t.lingerLocked()
	return relay.Verdict{Pass: len(p), Shut: true}
}

// shutLocked is the verdict that ends a direction, with a Close for the
// upstream if that is due and possible.
func (t *tunnel) shutLocked(d relay.Direction, s *frame.Scanner, p []byte) relay.Verdict {
	v := relay.Verdict{Drop: len(p), Shut: true}
	if d == relay.ClientToUpstream && t.tellUpstream && s.AtBoundary() {
		var key [4]byte
		_, _ = rand.Read(key[:]) // never fails
		v.Insert = frame.AppendClose(nil, frame.StatusGoingAway, "", &key)
	}
	return v
}

// unanswered ends the wait for the client's answer to our Close.
func (t *tunnel) unanswered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tellUpstream = true
	t.lingerLocked()
}

// lingerLocked tells both peers that nothing more will come, and bounds the
// wait for their ends.
func (t *tunnel) lingerLocked() {
	if phase(t.phase.Load()) == lingering {
		return
	}
	t.phase.Store(int32(lingering))
	if t.timer != nil {
		t.timer.Stop()
	}
	t.timer = time.AfterFunc(lingerTime, t.relay.Abort)
	t.relay.Wake(relay.ClientToUpstream)
	t.relay.Wake(relay.UpstreamToClient)
}

// Ended implements relay.Hooks.
func (t *tunnel) Ended(d relay.Direction, end relay.End) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := source(d)
	t.ended[d] = true
	if t.firstEnded == "" {
		t.firstEnded = from
	}
	if end.Err == nil && t.mayGoOnLocked(d) {
		return
	}
	if t.why == "" && t.closeFrom == "" { // neither ended on purpose
		broken := from
		if end.Writing {
			broken = source(d.Opposite())
		}
		t.why = failed(broken, end.Err)
	}
	t.lingerLocked()
}

// mayGoOnLocked reports whether there is a use for the other direction when the
// source of d has ended its stream.
func (t *tunnel) mayGoOnLocked(d relay.Direction) bool {
	if phase(t.phase.Load()) == open {
		// Not after a closing handshake: then one peer closes the connection
		// and the other has only to do the same (RFC 6455 section 7.1.1).
		return !t.answered
	}
	// The client's answer to our Close is awaited.
	return d == relay.UpstreamToClient
}

// Done implements relay.Hooks.
func (t *tunnel) Done() {
	t.mu.Lock()
	if t.timer != nil {
		t.timer.Stop()
	}
	if t.why == "" {
		who := t.closeFrom
		if who == "" {
			who = t.firstEnded
		}
		t.why = closed(who)
	}
	t.phase.Store(int32(lingering)) // for a timer that has fired already
	t.mu.Unlock()
	t.live.remove(t)
	hosts.tunnelEnded(t.upstreamHost)
	t.policy.report(t)
	close(t.done)
}

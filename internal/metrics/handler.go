package metrics

import (
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// Handler counts what happens at the handlers of one name.
type Handler struct {
	metrics *Metrics
	name    string // the label
	series  []*series

	// InProgress are handshakes under way, and Queue those of them that wait for a place.
	InProgress, Queue atomic.Int64
	// Keyless are handshakes without the key that the policy goes by.
	Keyless    atomic.Uint64
	queueLimit atomic.Int64

	opened   words[string]
	closed   words[tunnel.Reason]
	codes    words[codeFrom]
	refused  words[refusedWith]
	retries  atomic.Uint64
	statuses [statusCount]atomic.Int64

	duration  *histogram
	handshake map[string]*histogram // by outcome
	wait      map[string]*histogram // by outcome

	// What follows is of clients and of upstreams.
	buffered, stalled   [2]atomic.Int64
	pings, pingTimeouts [2]atomic.Uint64
	rtt                 [2]*histogram
	silence             silence

	// next are the statuses of a round. They belong to the refresher.
	next [statusCount]int64
}

// words counts by what has a fixed number of values. Its keys do not change.
type words[K comparable] map[K]*atomic.Uint64

// count counts one. What is not known is not counted: it would have no series.
func (w words[K]) count(key K) {
	if n := w[key]; n != nil {
		n.Add(1)
	}
}

// codeFrom is the status of a Close frame, and who has sent it.
type codeFrom struct {
	code string
	from tunnel.Peer
}

// refusedWith is a cause and a class of statuses.
type refusedWith struct{ cause, status string }

// Outcomes of handshakes, and of waiting for a place.
const (
	outcomeOpen    = "open"
	outcomeRefused = "refused"
	outcomeFailed  = "failed"
	outcomeServed  = "served"
	outcomeGaveUp  = "gave_up"
)

var (
	protocols = []string{"h1", "h2", "h3"}
	peers     = [...]tunnel.Peer{tunnel.Client, tunnel.Upstream}
)

func newHandler(m *Metrics, name string) *Handler {
	h := &Handler{
		metrics: m, name: name, opened: make(words[string]), closed: make(words[tunnel.Reason]),
		codes: make(words[codeFrom]), refused: make(words[refusedWith]), duration: newHistogram(tunnelBounds),
		handshake: make(map[string]*histogram), wait: make(map[string]*histogram),
	}
	h.show(
		levelOf(descInProgress, &h.InProgress, name), counterOf(descRetries, &h.retries, name),
		counterOf(descKeyless, &h.Keyless, name),
		levelOf(descQueue, &h.Queue, name), levelOf(descLimit, &h.queueLimit, name), histogramOf(descDuration, h.duration, name),
	)
	for _, protocol := range protocols {
		h.show(counterOf(descOpened, h.opened.add(protocol), name, protocol))
	}
	for _, why := range tunnel.Reasons {
		h.show(counterOf(descClosed, h.closed.add(why), name, string(why)))
	}
	h.showCodes()
	h.showRefusals()
	for status := range statusCount {
		h.show(levelOf(descUpstreams, &h.statuses[status], name, status.String()))
	}
	h.showDurations(descHandshake, h.handshake, outcomeOpen, outcomeRefused, outcomeFailed)
	h.showDurations(descWait, h.wait, outcomeServed, outcomeGaveUp)
	h.showPeers()
	for _, over := range silentOver {
		h.show(gaugeOf(descSilent, func() float64 { return float64(h.silence.over(m.clock(), over.time)) }, name, over.label))
	}
	return h
}

func (h *Handler) show(all ...*series) { h.series = append(h.series, all...) }

// add makes a count.
func (w words[K]) add(key K) *atomic.Uint64 {
	n := new(atomic.Uint64)
	w[key] = n
	return n
}

// showCodes makes the counts by Close frame: those statuses that there are (RFC 6455
// section 7.4), but for 1006, which is never on the wire.
func (h *Handler) showCodes() {
	codes := []string{codeLibraries, codeApplications, codeInvalid}
	for code := 1000; code <= 1015; code++ {
		if code != abnormal {
			codes = append(codes, strconv.Itoa(code))
		}
	}
	h.show(counterOf(descCodes, h.codes.add(codeFrom{noCode, noCode}), h.name, noCode, noCode))
	for _, from := range [...]tunnel.Peer{tunnel.Client, tunnel.Upstream, tunnel.Proxy} {
		for _, code := range codes {
			h.show(counterOf(descCodes, h.codes.add(codeFrom{code, from}), h.name, code, string(from)))
		}
	}
}

// showRefusals makes the counts by cause. Statuses that are not usual with a cause are
// shown when they have come.
func (h *Handler) showRefusals() {
	for cause, usual := range h.metrics.words.Causes {
		for _, status := range []string{"2xx", "3xx", "4xx", "499", "5xx"} {
			n := h.refused.add(refusedWith{cause, status})
			s := counterOf(descRefused, n, h.name, cause, status)
			if !slices.Contains(usual, status) {
				s.onlyIf(func() bool { return n.Load() > 0 })
			}
			h.show(s)
		}
	}
}

func (h *Handler) showDurations(d *prometheus.Desc, by map[string]*histogram, outcomes ...string) {
	for _, outcome := range outcomes {
		by[outcome] = newHistogram(handshakeBounds)
		h.show(histogramOf(d, by[outcome], h.name, outcome))
	}
}

func (h *Handler) showPeers() {
	for i, p := range peers {
		peer := string(p)
		h.rtt[i] = newHistogram(handshakeBounds)
		h.show(
			levelOf(descBuffered, &h.buffered[i], h.name, peer), levelOf(descStalled, &h.stalled[i], h.name, peer),
			counterOf(descPings, &h.pings[i], h.name, peer), counterOf(descPingTimeouts, &h.pingTimeouts[i], h.name, peer),
			histogramOf(descRTT, h.rtt[i], h.name, peer),
		)
	}
}

// Course is how a handshake has gone that is over.
type Course struct {
	Protocol string        // h1, h2 or h3
	Took     time.Duration // all of it
	Queued   time.Duration // in the queue; zero: it was not
	GaveUp   bool          // it has not got a place there
	Retries  int           // how many upstreams were tried, but for the first
}

// Refused counts a handshake that was answered with a status that is not 101.
func (h *Handler) Refused(cause string, status int, c Course) {
	h.refused.count(refusedWith{cause, classOf(status)})
	outcome := outcomeRefused
	if status >= 500 {
		outcome = outcomeFailed
	}
	h.ended(outcome, c)
}

// Abandoned counts a handshake that was given up without an answer.
func (h *Handler) Abandoned(c Course) { h.ended(outcomeFailed, c) }

func (h *Handler) ended(outcome string, c Course) {
	h.handshake[outcome].observe(c.Took)
	h.retries.Add(uint64(c.Retries))
	switch {
	case c.Queued == 0:
	case c.GaveUp:
		h.wait[outcomeGaveUp].observe(c.Queued)
	default:
		h.wait[outcomeServed].observe(c.Queued)
	}
}

// Attempted counts a handshake at an upstream. Without a cause, a tunnel will be opened,
// unless GivenUp is called. With one that is not of an upstream's failures, it was given up.
func (h *Handler) Attempted(upstream string, took time.Duration, cause string) {
	p := h.seen(upstream)
	p.site.attempts.observe(took)
	switch {
	case cause == "":
	case p.failed[cause] == nil:
		p.abandoned.Add(1)
	default:
		p.failed.count(cause)
	}
}

// GivenUp counts that nobody wants the tunnel for which an upstream was ready.
func (h *Handler) GivenUp(upstream string) { h.seen(upstream).abandoned.Add(1) }

// seen is the pair with an upstream, which is kept for a while from now on.
func (h *Handler) seen(upstream string) *Pair {
	m := h.metrics
	m.mu.Lock()
	defer m.unlock()
	p := m.pairLocked(h, upstream)
	p.seenLocked(m.clock())
	return p
}

// Opened counts a tunnel. Its end has to be told to what it returns.
func (h *Handler) Opened(upstream string, c Course) *Pair {
	h.ended(outcomeOpen, c)
	h.opened.count(c.Protocol)
	m := h.metrics
	m.mu.Lock()
	defer m.unlock()
	p := m.pairLocked(h, upstream)
	p.useLocked()
	p.opened.Add(1)
	return p
}

// clientGone is the status in logs for a client that has gone.
const clientGone = 499

// classOf is the label for a status.
func classOf(status int) string {
	switch {
	case status == clientGone:
		return "499"
	case status >= 500: // also those of an upstream that have no meaning
		return "5xx"
	}
	return strconv.Itoa(status/100) + "xx"
}

// Labels for statuses of Close frames.
const (
	noCode           = "none"
	codeLibraries    = "3xxx"
	codeApplications = "4xxx"
	codeInvalid      = "invalid"
	abnormal         = 1006
)

// codeOf is the label for the status of a Close frame.
func codeOf(code uint16) string {
	switch {
	case code >= 1000 && code <= 1015 && code != abnormal:
		return strconv.Itoa(int(code))
	case code >= 3000 && code < 4000:
		return codeLibraries
	case code >= 4000 && code < 5000:
		return codeApplications
	}
	return codeInvalid
}

package relay

import "time"

// busyPeriod is how long a direction keeps its goroutine without a byte to
// relay, at least; twice as long at most. Starting one for each message would
// cost more than keeping it for the time of a conversation.
const busyPeriod = time.Second

// streamPeriod is the same where the client is a stream: what its server does for each
// message costs so much more than a goroutine that one need not be kept for long.
const streamPeriod = 200 * time.Millisecond

func periodFor(client Conn) time.Duration {
	if _, stream := client.(Awaitable); stream {
		return streamPeriod
	}
	return busyPeriod
}

// hurryPeriod is how long bytes may lie here while a read goes on, at most.
const hurryPeriod = 10 * time.Millisecond

// lull finds out when a direction has nothing to do. Its deadline is renewed
// once in a period only, not with each read.
type lull struct {
	conn   deadliner // nil if nothing else could wait for the source
	period time.Duration
	heard  bool // something was read since the deadline was set
	dry    bool // the deadline is past: reads return only what is there
	near   bool // the deadline is past, or comes within hurryPeriod
}

type deadliner interface {
	SetReadDeadline(t time.Time) error
}

func newLull(conn deadliner, period time.Duration) lull {
	l := lull{conn: conn, period: period}
	l.renew()
	return l
}

// Errors of SetReadDeadline mean that the connection is closed, which the next
// read tells.

func (l *lull) renew() {
	l.heard, l.dry, l.near = false, false, false
	_ = l.conn.SetReadDeadline(time.Now().Add(l.period))
}

// hurry has the deadline come soon. It comes even if reads go on, once for many of them.
func (l *lull) hurry() {
	if l.conn != nil && !l.near {
		l.near = true
		_ = l.conn.SetReadDeadline(time.Now().Add(hurryPeriod))
	}
}

// over reports, when the deadline has passed, whether the source has been
// silent for a whole period and holds nothing any more: TLS may have read more
// than it has returned, of which the descriptor tells nothing.
func (l *lull) over() bool {
	switch {
	case l.heard:
		l.renew()
	case l.dry:
		return true
	default:
		l.dry, l.near = true, true
		_ = l.conn.SetReadDeadline(time.Unix(1, 0))
	}
	return false
}

// forget makes reads wait for as long as it takes.
func (l *lull) forget() {
	_ = l.conn.SetReadDeadline(time.Time{})
	l.conn = nil
}

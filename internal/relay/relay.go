// Package relay moves bytes between the two connections of a tunnel. It knows
// nothing of HTTP or of frames: its owner looks at the bytes of each direction
// on their way and decides what passes, through [Hooks].
package relay

import (
	"errors"
	"io"
	"time"
)

// Direction is the way that bytes take through the relay.
type Direction uint8

// The two directions, seen from the proxy.
const (
	ClientToUpstream Direction = iota
	UpstreamToClient
)

// Opposite is the other direction.
func (d Direction) Opposite() Direction {
	return d ^ 1
}

// Conn is one of the two connections of a relay. Read and Write may block;
// both run from one goroutine at a time each.
type Conn interface {
	io.ReadWriteCloser
	// CloseWrite tells the peer that nothing more will be sent to it. What
	// the peer sends can still be read, if the kind of connection allows it.
	CloseWrite() error
	// Abort makes every present and later Read and Write fail, without
	// blocking. Close still has to be called.
	Abort()
}

// ErrReset is in the chain of an error that stands for a reset by the peer, where a
// Conn has no error of the system that says so: of the ways in which servers of HTTP/2
// and HTTP/3 tell that the client has cancelled a stream or closed its connection.
var ErrReset = errors.New("stream reset")

// Backlogged is implemented by connections that can tell how many of the bytes
// that were written to them have not reached the peer's system.
type Backlogged interface {
	Backlog() int
}

// Impatient is implemented by connections whose system can give the peer up.
type Impatient interface {
	GiveUpAfter(d time.Duration)
}

// Awaitable is implemented by connections that can wait for something to read without a
// buffer for it. Await may also return when there is nothing, but not again and again.
type Awaitable interface {
	Await() error
}

// Resettable is implemented by connections that can be closed by a reset. After
// Reset, Close and Abort throw away what has not reached the peer's system.
type Resettable interface {
	Reset()
}

// Side is a connection and the bytes that were read from it together with its
// handshake, which go ahead of all others. Of a client that is often one byte: net/http
// reads it to learn whether the client is still there, and finds the first frame.
type Side struct {
	Conn     Conn
	Buffered []byte
}

// Verdict says what becomes of the bytes that an Inspect call was shown.
type Verdict struct {
	// Pass is how many of the bytes are passed on.
	Pass int
	// Insert is written after them. The relay may do that later.
	Insert []byte
	// Drop is how many of the bytes that follow are discarded.
	Drop int
	// Shut ends the direction after that: its destination is half-closed, and
	// whatever its source still sends is read and discarded until it ends.
	Shut bool
	// Wait pauses the direction after that for some time. Its source is not
	// read meanwhile, and what is left of the bytes is shown again afterwards. When
	// the direction is shut or fails meanwhile, that ends the pause.
	Wait time.Duration
	// Ahead is how many of the bytes that follow those of the call need not be
	// shown. The relay may pass them on without, and then tells Skip.
	Ahead uint64
}

// isZero reports whether v is no verdict.
func (v Verdict) isZero() bool {
	return v.Pass == 0 && len(v.Insert) == 0 && v.Drop == 0 && !v.Shut && v.Wait == 0
}

// End is how a direction ended.
type End struct {
	// Err is nil if the source has properly ended its stream.
	Err error
	// Writing tells that Err came from writing to the destination, not from
	// reading from the source.
	Writing bool
}

// Hooks are what the owner of a relay decides and learns. They must not block.
type Hooks interface {
	// Inspect is shown the bytes of a direction right before they are
	// written, by the direction's one writer, and again what its verdict left
	// over. A verdict on a non-empty p must use up at least one byte, pause the
	// direction or shut it. p is empty if the call was asked for with Wake, or
	// if a pause is over that left nothing.
	Inspect(d Direction, p []byte) Verdict
	// Skip tells that the next bytes of a direction pass without being shown: no
	// more than the last verdict's Ahead, or what is left of it.
	Skip(d Direction, n int)
	// Resets is called right before Ended when the source of a direction has ended
	// or has failed, and reports whether its destination is not to be told that as
	// an end of stream. The owner then has to end the relay, by Reset, if the other
	// direction goes on.
	Resets(d Direction, end End) bool
	// Ended is called once for each direction, when its source has ended or
	// has failed, which its destination is told as an end of stream, or when
	// its destination has failed. Then whatever the source still sends is read
	// and discarded. It is not called for a direction that a verdict has shut.
	Ended(d Direction, end End)
	// Done is called once, as the last thing: both directions have ended and
	// both connections are closed.
	Done()
}

// Relay is a running relay.
type Relay interface {
	// Counts returns how many bytes of the direction were read from its
	// source, without those that wait for the end of a pause, and how many of
	// them its destination has taken or a verdict has discarded. While they
	// differ, a write is in progress. They do so before bytes are shown or
	// skipped, and as long as hooks are called for them: who looks at the counts
	// when such a call has begun sees that, or all that has come of it.
	Counts(d Direction) (read, taken uint64)
	// Backlog returns how many of the bytes that the direction's destination
	// has taken are still on this side of the network, or 0 if nobody knows.
	// A system may hold megabytes and let a write go on only when a good part
	// of them is gone; that this number changes tells before then that the
	// peer is reading.
	Backlog(d Direction) int
	// GiveUpAfter has TCP give a peer up if bytes sent to it go unacknowledged, or its
	// window stays closed, for so long. Other kinds of connection, and systems that
	// cannot, have their own ways.
	GiveUpAfter(d time.Duration)
	// Wake has Inspect called by the direction's writer as soon as it is not
	// busy, so that it can insert something or shut the direction. Once is
	// enough for all calls until then, and nothing happens if the direction
	// has ended.
	Wake(d Direction)
	// Abort ends both directions at once, without blocking. It may be called
	// at any time and more than once, like Wake also from hooks.
	Abort()
	// Reset is Abort that tells the peer at the destination of d by a reset, where
	// its kind of connection has one. What has not reached its system is lost.
	Reset(d Direction)
}

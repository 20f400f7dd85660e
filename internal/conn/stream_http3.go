package conn

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// resetInterval is how often is looked for a reset of a stream that nobody reads.
const resetInterval = 100 * time.Millisecond

// takenStream is an HTTP/3 stream that was taken from its server, because a
// request's context tells neither why it has ended nor that the client has reset
// its direction only, which RFC 9114 section 4.4 takes for its end too.
type takenStream struct {
	*http3.Stream

	fail context.CancelCauseFunc
	mu   sync.Mutex  // held by who reads
	look *time.Timer // runs while nobody does
}

// takeOver takes the stream from an HTTP/3 server, which then does not end it
// any more. The response has to have begun.
func (s *Stream) takeOver() {
	server, ok := Innermost(s.w).(http3.HTTPStreamer)
	if !ok {
		return
	}
	taken := &takenStream{Stream: server.HTTPStream()}
	s.life, taken.fail = context.WithCancelCause(taken.Context())
	taken.mu.Lock() // in case that it takes longer than the interval
	defer taken.mu.Unlock()
	taken.look = time.AfterFunc(resetInterval, taken.lookForReset)
	s.taken = taken
}

func (t *takenStream) beginRead() {
	t.mu.Lock()
	t.look.Stop()
}

func (t *takenStream) endRead() {
	t.look.Reset(resetInterval)
	t.mu.Unlock()
}

// lookForReset looks whether the client has reset its direction. A read of nothing
// does not wait.
func (t *takenStream) lookForReset() {
	if !t.mu.TryLock() {
		return // whoever reads learns it
	}
	defer t.mu.Unlock()
	_, err := t.QUICStream().Read(nil)
	switch {
	case err == nil:
		t.look.Reset(resetInterval)
	case !errors.Is(err, io.EOF):
		t.fail(err)
	}
}

// finish does what the server would have done when the handler returns.
func (t *takenStream) finish() {
	t.look.Stop()
	t.fail(nil)
	t.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	_ = t.Close() // fails if it was reset
}

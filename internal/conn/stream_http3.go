package conn

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// resetInterval is how often is looked for a reset of a stream that nobody reads.
const resetInterval = 100 * time.Millisecond

// TakenStream is a side of a tunnel that is a stream of HTTP/3. It was taken from its
// server, and lives on when its handler has returned. It implements [relay.Conn].
type TakenStream struct {
	str *http3.Stream
	// gone is who is to be told that there is no client any more; nil at first.
	gone atomic.Pointer[func(error)]
	// sent is set when our direction has ended, and aborted when both have.
	sent, aborted atomic.Bool
	torn          bool // a DATA frame has not been written to its end

	mu   sync.Mutex  // held by who reads
	look *time.Timer // runs while nobody does
}

// TakeStream takes a stream from its server, which then does not end it any more. The
// response has to have begun. It returns nil if that is not a stream of HTTP/3, or some
// handler in front hides it.
func TakeStream(w http.ResponseWriter) *TakenStream {
	server, ok := Innermost(w).(http3.HTTPStreamer)
	if !ok {
		return nil
	}
	s := &TakenStream{str: server.HTTPStream()}
	// Those that the server or a handler has set would stay. It cannot fail.
	_ = s.str.SetDeadline(time.Time{})
	s.mu.Lock() // in case that it takes longer than the interval
	defer s.mu.Unlock()
	s.look = time.AfterFunc(resetInterval, s.lookForReset)
	return s
}

// OnGone has gone called when there is no client any more, though nobody reads or writes.
func (s *TakenStream) OnGone(gone func(err error)) {
	s.gone.Store(&gone)
	ctx := s.str.Context() // ends with our direction
	context.AfterFunc(ctx, func() {
		if !s.sent.Load() {
			s.tell(context.Cause(ctx))
		}
	})
}

func (s *TakenStream) tell(err error) {
	if gone := s.gone.Load(); gone != nil && !s.aborted.Load() {
		(*gone)(streamError(err))
	}
}

func (s *TakenStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	s.look.Stop()
	n, err := s.str.Read(p)
	if !s.aborted.Load() {
		s.look.Reset(resetInterval)
	}
	s.mu.Unlock()
	if err != nil && s.aborted.Load() {
		err = io.EOF
	}
	return n, streamError(err)
}

// lookForReset looks whether the client has reset its direction, which RFC 9114 section
// 4.4 takes for the end of both, while nobody reads. A read of nothing does not wait.
func (s *TakenStream) lookForReset() {
	if !s.mu.TryLock() {
		return // whoever reads learns it
	}
	defer s.mu.Unlock()
	_, err := s.str.QUICStream().Read(nil)
	switch {
	case err == nil:
		s.look.Reset(resetInterval)
	case !errors.Is(err, io.EOF):
		s.tell(err)
	}
}

// dataFrames are buffers for frames.
var dataFrames = sync.Pool{New: func() any { return new([]byte) }}

// Write sends a DATA frame (RFC 9114 section 7.2.1) as a whole: the stream's own Write
// sends its header first, for which there may be a packet.
func (s *TakenStream) Write(p []byte) (int, error) {
	const typeData = 0
	buf, _ := dataFrames.Get().(*[]byte)
	defer dataFrames.Put(buf)
	*buf = append((*buf)[:0], typeData)
	*buf = quicvarint.Append(*buf, uint64(len(p)))
	header := len(*buf)
	*buf = append(*buf, p...)
	n, err := s.str.QUICStream().Write(*buf)
	s.torn = s.torn || err != nil
	return max(0, n-header), streamError(err)
}

// CloseWrite ends our direction only.
func (s *TakenStream) CloseWrite() error {
	s.sent.Store(true)
	return s.str.Close()
}

// Abort makes a pending Write fail too.
func (s *TakenStream) Abort() {
	s.aborted.Store(true)
	s.str.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	_ = s.str.SetWriteDeadline(time.Unix(1, 0)) // cannot fail
}

// Close ends the stream, by a reset if what was written ends within a frame.
func (s *TakenStream) Close() error {
	s.aborted.Store(true)
	s.sent.Store(true)
	s.look.Stop()
	s.str.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	if s.torn {
		s.str.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		return nil
	}
	return s.str.Close() // fails if it was reset
}

var _ relay.Conn = (*TakenStream)(nil)

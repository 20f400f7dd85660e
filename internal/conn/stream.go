package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// Stream is a side of a tunnel that is a stream of HTTP/2, or one of HTTP/3 that is not
// to be taken from its server. It ends with the handler that serves it. It implements
// [relay.Conn].
type Stream struct {
	body io.ReadCloser
	w    http.ResponseWriter
	ctrl *http.ResponseController
	conn net.Conn // of the stream, if it is one of HTTP/2
	// life ends when the client has reset the stream or its connection has ended. It
	// also ends when the handler returns.
	life context.Context
	// writing is set while a Write is under way, and aborted when none is to begin.
	writing, aborted atomic.Bool
	// wrote counts the Writes that have ended.
	wrote atomic.Uint64
	ahead ahead

	mu    sync.Mutex // guards ended, and w from the handler's return
	ended bool
}

// NewStream takes over the stream of an extended CONNECT that was accepted. conn is
// the connection of the stream, if that is one of HTTP/2, and life the context of
// its request.
func NewStream(life context.Context, w http.ResponseWriter, body io.ReadCloser, conn net.Conn) *Stream {
	return &Stream{body: body, w: w, ctrl: http.NewResponseController(w), conn: conn, life: life}
}

// Accept sends the header of the response. The client waits for it before it sends
// anything.
func (s *Stream) Accept() error {
	return s.ctrl.Flush()
}

// OnGone has gone called when there is no client any more, though nobody reads or
// writes, until stop is called.
func (s *Stream) OnGone(gone func(err error)) (stop func() bool) {
	return context.AfterFunc(s.life, func() {
		if errors.Is(s.life.Err(), context.DeadlineExceeded) {
			return // of some handler in front; the client may still be there
		}
		gone(streamError(context.Cause(s.life)))
	})
}

// Await implements [relay.Awaitable]: a read of nothing waits for something, but for
// bodies that are limited, of which it returns at once.
func (s *Stream) Await() error {
	_, err := s.Read(nil)
	return err
}

func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	if err != nil && s.hasEnded() {
		err = io.EOF
	}
	return n, streamError(err)
}

func (s *Stream) Write(p []byte) (int, error) {
	s.writing.Store(true)
	defer s.writing.Store(false)
	if s.aborted.Load() {
		return 0, os.ErrDeadlineExceeded // as if it had begun before
	}
	n, err := s.w.Write(p)
	if err == nil {
		err = s.ctrl.Flush()
	}
	s.wrote.Add(1)
	return n, streamError(err)
}

// Backlog implements relay.Backlogged. What a Write has ended with is then with the system,
// which may hold megabytes for a client that reads slowly.
func (s *Stream) Backlog() int {
	if s.conn == nil {
		return 0
	}
	return s.ahead.left(Socket{s.conn}, s.wrote.Load())
}

func streamError(err error) error {
	if err == nil || errors.Is(err, io.EOF) || IsTimeout(err) {
		return err
	}
	if tooMuch := new(http.MaxBytesError); errors.As(err, &tooMuch) {
		return err // of some handler in front, which counts a stream as one body
	}
	return fmt.Errorf("%w: %w", relay.ErrReset, err)
}

// IsTimeout reports whether an error is that some time was over.
func IsTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// CloseWrite ends the stream. A handler cannot end only its sending direction:
// the client sees the end when the handler returns, which it does when reading
// has ended too.
func (s *Stream) CloseWrite() error {
	s.end()
	return nil
}

// Abort makes a pending Write fail too.
func (s *Stream) Abort() {
	s.aborted.Store(true)
	s.end()
	s.expireWrite()
	// A Write that begins at this moment may set a deadline of its own first.
	time.AfterFunc(100*time.Millisecond, s.expireWrite)
	time.AfterFunc(stuckTime, s.cut)
}

// stuckTime is how long a Write may take to fail when it was made to.
const stuckTime = 500 * time.Millisecond

// cut closes the connection if it is stuck as a whole, with all of its streams: as
// long as its client takes nothing, the server cannot even reset one.
func (s *Stream) cut() {
	if s.conn != nil && s.writing.Load() {
		Socket{s.conn}.Abort()
	}
}

// expireWrite makes a pending Write fail. If there is none, the client gets to know the end
// of the stream when the handler returns: a deadline would have the server reset it instead,
// by INTERNAL_ERROR. The server's own writer is made for calls during a Write; those that
// handlers put around it may not be.
func (s *Stream) expireWrite() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil || !s.writing.Load() {
		return
	}
	_ = http.NewResponseController(Innermost(s.w)).SetWriteDeadline(time.Unix(1, 0))
}

// Close ends the stream.
func (s *Stream) Close() error {
	s.end()
	return nil
}

// Detach ends the use of the response writer, which must not be touched any
// more when the handler returns.
func (s *Stream) Detach() {
	s.mu.Lock()
	s.w = nil
	s.mu.Unlock()
}

func (s *Stream) end() {
	s.mu.Lock()
	ended := s.ended
	s.ended = true
	s.mu.Unlock()
	if !ended {
		_ = s.body.Close() // unblocks Read
	}
}

func (s *Stream) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// Interface guards
var (
	_ relay.Conn       = Socket{}
	_ relay.Backlogged = Socket{}
	_ relay.Impatient  = Socket{}
	_ relay.Resettable = Socket{}
	_ relay.Conn       = (*Stream)(nil)
	_ relay.Backlogged = (*Stream)(nil)
)

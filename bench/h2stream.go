package main

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// h2Stream is a request that has become a tunnel.
type h2Stream struct {
	conn *h2Conn
	id   uint32

	changed sync.Cond // of conn.mu, which guards the following
	window  int64
	status  int
	data    bytes.Buffer
	taken   uint32 // bytes read and not given back
	ended   bool
	err     error
}

// response waits for the status of the response.
func (s *h2Stream) response() (int, error) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	for s.status == 0 && s.failure() == nil {
		s.changed.Wait()
	}
	if s.status != 0 {
		return s.status, nil // a server that refuses may reset the stream at once
	}
	return 0, s.failure()
}

// failure tells why the stream does not go on, if it does not.
func (s *h2Stream) failure() error {
	if s.err != nil {
		return s.err
	}
	return s.conn.err
}

func (s *h2Stream) Read(p []byte) (int, error) {
	n, give, err := s.take(p)
	if give > 0 && err == nil {
		err = s.conn.write(func() error { return s.conn.framer.WriteWindowUpdate(s.id, give) })
	}
	return n, err
}

// take reads what there is, and tells how much of the window is to be given back.
func (s *h2Stream) take(p []byte) (n int, give uint32, err error) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	for s.data.Len() == 0 && !s.ended && s.failure() == nil {
		s.changed.Wait()
	}
	if s.data.Len() == 0 {
		if s.ended {
			return 0, 0, io.EOF
		}
		return 0, 0, s.failure()
	}
	n, _ = s.data.Read(p) // there is something
	s.taken += uint32(n)
	if s.taken < h2StreamWindow/2 || s.ended {
		return n, 0, nil
	}
	give, s.taken = s.taken, 0
	return n, give, nil
}

// Write sends p as the windows allow.
func (s *h2Stream) Write(p []byte) (int, error) {
	for written := 0; ; {
		if written == len(p) {
			return written, nil
		}
		n, err := s.reserve(len(p) - written)
		if err != nil {
			return written, err
		}
		part := p[written : written+n]
		if err := s.conn.write(func() error { return s.conn.framer.WriteData(s.id, false, part) }); err != nil {
			return written, err
		}
		written += n
	}
}

// reserve waits until some of wanted bytes may be sent.
func (s *h2Stream) reserve(wanted int) (int, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := s.failure(); err != nil {
			return 0, err
		}
		n := min(int64(wanted), h2Frame, s.window, c.window)
		if n > 0 {
			s.window -= n
			c.window -= n
			return int(n), nil
		}
		c.windows.Wait()
	}
}

// SetDeadline is the whole connection's, as no tunnel of a measurement lives
// longer than the others.
func (s *h2Stream) SetDeadline(t time.Time) error { return s.conn.conn.SetDeadline(t) }

// Close leaves the stream.
func (s *h2Stream) Close() error {
	c := s.conn
	c.mu.Lock()
	delete(c.streams, s.id)
	if s.err == nil {
		s.err = errClosed
	}
	s.changed.Broadcast()
	c.windows.Broadcast()
	c.mu.Unlock()
	return c.write(func() error { return c.framer.WriteRSTStream(s.id, http2.ErrCodeCancel) })
}

var errClosed = errors.New("the stream was closed")

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What clients of HTTP/2 allow and send. The windows are those of Chromium.
const (
	h2StreamWindow  = 6 << 20
	h2Window        = 15 << 20
	h2DefaultWindow = 1<<16 - 1 // RFC 9113 section 6.9.2
	h2Frame         = 16 << 10  // the longest that every server takes
	h2ReadBuffer    = 32 << 10
)

// h2Conn is a client's HTTP/2 connection, which knows what extended CONNECT
// needs (RFC 8441).
type h2Conn struct {
	conn net.Conn
	addr string

	out    sync.Mutex // guards what writes; locked before mu
	framer *http2.Framer
	block  bytes.Buffer
	enc    *hpack.Encoder
	nextID uint32

	mu       sync.Mutex // guards the following, and the streams' fields
	windows  sync.Cond  // of mu: a window has grown, or the connection has failed
	err      error      // why the connection does not go on
	window   int64
	initial  int64  // window of new streams
	connects bool   // extended CONNECT is offered
	settled  bool   // the server's settings have come
	taken    uint32 // bytes received and not given back
	streams  map[uint32]*h2Stream
}

// dialH2 connects and waits for the server's settings.
func dialH2(ctx context.Context, t target) (carrier, error) {
	config := t.tls.Clone()
	config.NextProtos = []string{http2.NextProtoTLS}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	c := &h2Conn{
		conn: conn, addr: t.addr, nextID: 1, window: h2DefaultWindow, initial: h2DefaultWindow,
		framer: http2.NewFramer(conn, bufio.NewReaderSize(conn, h2ReadBuffer)), streams: make(map[uint32]*h2Stream),
	}
	c.windows.L = &c.mu
	c.enc = hpack.NewEncoder(&c.block)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.SetReuseFrames()
	_ = conn.SetDeadline(time.Now().Add(handshakeLimit)) // it is open
	if err := c.greet(); err != nil {
		closeQuietly(conn)
		return nil, err
	}
	go c.readAll() // until the connection is closed
	return c, c.awaitSettings()
}

func (c *h2Conn) Close() error { return c.conn.Close() }

// greet sends the client's preface and windows.
func (c *h2Conn) greet() error {
	if _, err := io.WriteString(c.conn, http2.ClientPreface); err != nil {
		return err
	}
	err := c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: h2StreamWindow})
	if err != nil {
		return err
	}
	return c.framer.WriteWindowUpdate(0, h2Window-h2DefaultWindow)
}

func (c *h2Conn) awaitSettings() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.settled && c.err == nil {
		c.windows.Wait()
	}
	if c.err != nil || c.connects {
		return c.err
	}
	closeQuietly(c.conn)
	return errNotOffered
}

// readAll handles all that comes, until nothing does any more.
func (c *h2Conn) readAll() {
	for {
		f, err := c.framer.ReadFrame()
		if err == nil {
			err = c.handle(f)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *h2Conn) fail(err error) {
	closeQuietly(c.conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = fmt.Errorf("%w: %w", errGone, err)
	c.windows.Broadcast()
	for _, s := range c.streams {
		s.changed.Broadcast()
	}
}

// handle does what a frame asks for.
func (c *h2Conn) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		return c.settle(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.write(func() error { return c.framer.WritePing(true, f.Data) })
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("got GOAWAY with %v", f.ErrCode)
	case *http2.DataFrame:
		return c.receive(f)
	case *http2.WindowUpdateFrame:
		c.grow(f.StreamID, int64(f.Increment))
	case *http2.MetaHeadersFrame:
		status, _ := strconv.Atoi(f.PseudoValue("status"))
		c.change(f.StreamID, func(s *h2Stream) {
			if status >= 200 { // before it there may be others
				s.status = status
			}
			s.ended = s.ended || f.StreamEnded()
		})
	case *http2.RSTStreamFrame:
		c.change(f.StreamID, func(s *h2Stream) { s.err = fmt.Errorf("the stream was reset: %v", f.ErrCode) })
	}
	return nil
}

// write lets f write.
func (c *h2Conn) write(f func() error) error {
	c.out.Lock()
	defer c.out.Unlock()
	return f()
}

// change changes a stream, if it is still there, and wakes who waits for that.
func (c *h2Conn) change(id uint32, f func(*h2Stream)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.streams[id]
	if !ok {
		return
	}
	f(s)
	s.changed.Broadcast()
	if s.err != nil {
		c.windows.Broadcast()
	}
}

// settle takes the server's settings over.
func (c *h2Conn) settle(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	if size, ok := f.Value(http2.SettingInitialWindowSize); ok {
		for _, s := range c.streams {
			s.window += int64(size) - c.initial
		}
		c.initial = int64(size)
	}
	if on, ok := f.Value(http2.SettingEnableConnectProtocol); ok {
		c.connects = on == 1
	}
	c.settled = true
	c.windows.Broadcast()
	c.mu.Unlock()
	return c.write(c.framer.WriteSettingsAck)
}

// grow grows a window, the connection's if id is 0.
func (c *h2Conn) grow(id uint32, by int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 {
		c.window += by
	} else if s, ok := c.streams[id]; ok {
		s.window += by
	}
	c.windows.Broadcast()
}

// receive keeps data for whom it is for, and gives the connection's window back,
// so that only the streams' own hold anything up.
func (c *h2Conn) receive(f *http2.DataFrame) error {
	c.change(f.StreamID, func(s *h2Stream) {
		s.data.Write(f.Data())
		s.ended = s.ended || f.StreamEnded()
	})
	c.taken += f.Length // only here
	if c.taken < h2Window/2 {
		return nil
	}
	n := c.taken
	c.taken = 0
	return c.write(func() error { return c.framer.WriteWindowUpdate(0, n) })
}

func (c *h2Conn) open(_ context.Context, path string) (stream, error) {
	_ = c.conn.SetDeadline(time.Now().Add(handshakeLimit)) // fails only on a closed connection
	s, err := c.request(path)
	if err != nil {
		return nil, err
	}
	status, err := s.response()
	if err == nil {
		err = accepted(status)
	}
	if err != nil {
		closeQuietly(s)
		return nil, err
	}
	return s, nil
}

// request sends the request for a WebSocket.
func (c *h2Conn) request(path string) (*h2Stream, error) {
	c.out.Lock() // also for the numbers to ascend
	defer c.out.Unlock()
	c.mu.Lock()
	s := &h2Stream{conn: c, id: c.nextID, window: c.initial}
	s.changed.L = &c.mu
	c.nextID += 2
	c.streams[s.id] = s
	c.mu.Unlock()

	c.block.Reset()
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "CONNECT"},
		{Name: ":protocol", Value: "websocket"},
		{Name: ":scheme", Value: "https"},
		{Name: ":path", Value: path},
		{Name: ":authority", Value: c.addr},
		{Name: "sec-websocket-version", Value: "13"},
	} {
		_ = c.enc.WriteField(f) // to memory
	}
	return s, c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: c.block.Bytes(), EndHeaders: true,
	})
}

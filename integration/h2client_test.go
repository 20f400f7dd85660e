package integration

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Conn is the client's end of an HTTP/2 connection, of which it knows no more
// than extended CONNECT needs.
type h2Conn struct {
	conn net.Conn

	wmu    sync.Mutex // guards what writes
	framer *http2.Framer
	block  bytes.Buffer
	enc    *hpack.Encoder

	mu       sync.Mutex // guards what follows, and the streams' fields
	changed  chan struct{}
	err      error // why the connection does not go on
	settings map[http2.SettingID]uint32
	window   int64
	streams  map[uint32]*h2Stream
	nextID   uint32
}

// dialH2 connects to the https address, or to the http address if it is not
// secure, and waits for the server's settings.
func dialH2(tb testing.TB, c *caddy, secure bool) *h2Conn {
	tb.Helper()
	h := &h2Conn{
		changed: make(chan struct{}),
		window:  1<<16 - 1, // RFC 9113 section 6.9.2
		streams: make(map[uint32]*h2Stream),
		nextID:  1,
	}
	h.conn = dialH2Transport(tb, c, secure)
	h.enc = hpack.NewEncoder(&h.block)
	if _, err := io.WriteString(h.conn, http2.ClientPreface); err != nil {
		tb.Fatalf("HTTP/2: sending the preface: %v", err)
	}
	h.framer = http2.NewFramer(h.conn, h.conn)
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := h.framer.WriteSettings(); err != nil {
		tb.Fatalf("HTTP/2: sending the settings: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.readLoop()
	}()
	tb.Cleanup(func() {
		_ = h.conn.Close()
		<-done
	})
	h.await(tb, "the server's settings", timeout, func() bool { return h.settings != nil })
	return h
}

func dialH2Transport(tb testing.TB, c *caddy, secure bool) net.Conn {
	tb.Helper()
	d := &net.Dialer{Timeout: timeout}
	if !secure {
		conn, err := d.DialContext(tb.Context(), "tcp", c.http)
		if err != nil {
			tb.Fatalf("HTTP/2: %v", err)
		}
		return conn
	}
	cfg := c.certs.ClientConfig()
	cfg.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{NetDialer: d, Config: cfg}).DialContext(tb.Context(), "tcp", c.https)
	if err != nil {
		tb.Fatalf("HTTP/2: %v", err)
	}
	return conn
}

// awaitQuietly waits until ok, which is called with h.mu held, or the connection has
// failed. It reports whether ok.
func (h *h2Conn) awaitQuietly(limit time.Duration, ok func() bool) bool {
	deadline := time.After(limit)
	for {
		h.mu.Lock()
		good, failed, changed := ok(), h.err != nil, h.changed
		h.mu.Unlock()
		if good || failed {
			return good
		}
		select {
		case <-changed:
		case <-deadline:
			return false
		}
	}
}

func (h *h2Conn) await(tb testing.TB, what string, limit time.Duration, ok func() bool) {
	tb.Helper()
	if !h.awaitQuietly(limit, ok) {
		h.mu.Lock()
		defer h.mu.Unlock()
		tb.Fatalf("HTTP/2: waiting for %s: nothing within %v; the connection's error is %v", what, limit, h.err)
	}
}

func (h *h2Conn) changedLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *h2Conn) readLoop() {
	for {
		f, err := h.framer.ReadFrame()
		h.mu.Lock()
		if err == nil {
			err = h.handleLocked(f)
		}
		h.err = err
		h.changedLocked()
		h.mu.Unlock()
		if err == nil {
			err = h.acknowledge(f)
		}
		if err != nil {
			return
		}
	}
}

func (h *h2Conn) handleLocked(f http2.Frame) error {
	s := h.streams[f.Header().StreamID]
	switch f := f.(type) {
	case *http2.SettingsFrame:
		return h.applySettingsLocked(f)
	case *http2.GoAwayFrame:
		if f.ErrCode != http2.ErrCodeNo { // else the streams go on
			return fmt.Errorf("GOAWAY %v", f.ErrCode)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			h.window += int64(f.Increment)
		} else if s != nil {
			s.window += int64(f.Increment)
		}
	case *http2.MetaHeadersFrame:
		if s == nil {
			return fmt.Errorf("HEADERS on stream %d", f.StreamID)
		}
		s.headLocked(f)
	case *http2.DataFrame:
		if s == nil {
			return fmt.Errorf("DATA on stream %d", f.StreamID)
		}
		s.data = append(s.data, f.Data()...)
		s.ended = s.ended || f.StreamEnded()
	case *http2.RSTStreamFrame:
		if s != nil && s.reset == nil {
			s.reset = &f.ErrCode
		}
	}
	return nil
}

func (h *h2Conn) applySettingsLocked(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if h.settings == nil {
		h.settings = make(map[http2.SettingID]uint32)
	}
	return f.ForeachSetting(func(s http2.Setting) error {
		if s.ID == http2.SettingInitialWindowSize {
			old := h.initialWindowLocked()
			for _, stream := range h.streams {
				stream.window += int64(s.Val) - old
			}
		}
		h.settings[s.ID] = s.Val
		return nil
	})
}

func (h *h2Conn) initialWindowLocked() int64 {
	if v, ok := h.settings[http2.SettingInitialWindowSize]; ok {
		return int64(v)
	}
	return 1<<16 - 1
}

// acknowledge answers the frames that want it.
func (h *h2Conn) acknowledge(f http2.Frame) error {
	h.wmu.Lock()
	defer h.wmu.Unlock()
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return h.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return h.framer.WritePing(true, f.Data)
		}
	}
	return nil
}

// widen lets the server send as much as it wants on the connection, though not on a stream.
func (h *h2Conn) widen(tb testing.TB) {
	tb.Helper()
	h.wmu.Lock()
	defer h.wmu.Unlock()
	if err := h.framer.WriteWindowUpdate(0, 1<<30); err != nil {
		tb.Fatalf("HTTP/2: %v", err)
	}
}

// h2Stream is a stream of an h2Conn.
type h2Stream struct {
	informed []http.Header // of responses before the final one
	conn     *h2Conn
	id       uint32

	// All are guarded by conn.mu.
	window int64
	status int
	header http.Header
	data   []byte
	ended  bool           // by END_STREAM
	reset  *http2.ErrCode // by RST_STREAM
	left   bool           // by ours, after which nothing comes any more
}

// open sends a request, whose body stays open.
func (h *h2Conn) open(tb testing.TB, fields [][2]string) *h2Stream {
	tb.Helper()
	h.wmu.Lock() // first, as streams have to begin in order
	defer h.wmu.Unlock()
	h.mu.Lock()
	s := &h2Stream{conn: h, id: h.nextID, window: h.initialWindowLocked()}
	h.streams[s.id] = s
	h.nextID += 2
	h.mu.Unlock()

	h.block.Reset()
	for _, f := range fields {
		if err := h.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			tb.Fatalf("HTTP/2: encoding %s: %v", f[0], err)
		}
	}
	err := h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: h.block.Bytes(), EndHeaders: true,
	})
	if err != nil {
		tb.Fatalf("HTTP/2: sending a request: %v", err)
	}
	return s
}

func (s *h2Stream) headLocked(f *http2.MetaHeadersFrame) {
	status, _ := strconv.Atoi(f.PseudoValue("status"))
	s.ended = s.ended || f.StreamEnded()
	if s.status != 0 {
		return // a trailer
	}
	header := make(http.Header)
	for _, field := range f.RegularFields() {
		header.Add(field.Name, field.Value)
	}
	if status < 200 {
		s.informed = append(s.informed, header)
		return
	}
	s.status, s.header = status, header
}

func (s *h2Stream) hints() []http.Header {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.informed
}

func (s *h2Stream) response(tb testing.TB) (status int, header http.Header) {
	tb.Helper()
	s.conn.await(tb, "a response", timeout, func() bool { return s.status != 0 || s.reset != nil })
	if s.status == 0 {
		tb.Fatalf("HTTP/2: the stream was reset before a response: %v", *s.reset)
	}
	return s.status, s.header
}

func (s *h2Stream) readWithin(p []byte, limit time.Duration) (int, error) {
	h := s.conn
	h.awaitQuietly(limit, func() bool { return len(s.data) > 0 || s.ended || s.reset != nil })
	h.mu.Lock()
	n := copy(p, s.data)
	s.data = s.data[n:]
	ended, reset, err := s.ended, s.reset, h.err
	h.mu.Unlock()
	switch {
	case n > 0:
		return n, s.giveBack(n)
	case ended:
		return 0, io.EOF
	case reset != nil:
		return 0, fmt.Errorf("%w: %v", errReset, *reset)
	case err != nil:
		return 0, err
	}
	return 0, errSilence
}

// giveBack lets the server send as much as has been read.
func (s *h2Stream) giveBack(n int) error {
	s.conn.wmu.Lock()
	defer s.conn.wmu.Unlock()
	for _, id := range []uint32{0, s.id} {
		if err := s.conn.framer.WriteWindowUpdate(id, uint32(n)); err != nil {
			return err
		}
	}
	return nil
}

func (s *h2Stream) Write(p []byte) (int, error) { return s.writeWithin(p, timeout) }

// writeWithin sends p as the windows allow.
func (s *h2Stream) writeWithin(p []byte, limit time.Duration) (int, error) {
	const maxFrame = 16384 // what every server takes
	h := s.conn
	for written := 0; ; {
		if written == len(p) {
			return written, nil
		}
		n := 0
		ok := h.awaitQuietly(limit, func() bool {
			n = min(len(p)-written, maxFrame, int(min(s.window, h.window)))
			if n > 0 {
				s.window -= int64(n)
				h.window -= int64(n)
			}
			return n > 0 || s.reset != nil || s.left
		})
		if !ok || n <= 0 {
			return written, errWindow
		}
		if err := s.send(p[written:written+n], false); err != nil {
			return written, err
		}
		written += n
	}
}

func (s *h2Stream) send(p []byte, end bool) error {
	s.conn.wmu.Lock()
	defer s.conn.wmu.Unlock()
	return s.conn.framer.WriteData(s.id, end, p)
}

func (s *h2Stream) closeWrite(tb testing.TB) {
	tb.Helper()
	if err := s.send(nil, true); err != nil {
		tb.Fatalf("HTTP/2: ending the stream: %v", err)
	}
}

func (s *h2Stream) cancel(tb testing.TB) {
	tb.Helper()
	s.conn.wmu.Lock()
	defer s.conn.wmu.Unlock()
	if err := s.conn.framer.WriteRSTStream(s.id, http2.ErrCodeCancel); err != nil {
		tb.Fatalf("HTTP/2: resetting the stream: %v", err)
	}
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.left = true
	s.conn.changedLocked()
}

// disconnect closes the whole connection without a word.
func (s *h2Stream) disconnect(testing.TB) {
	_ = s.conn.conn.Close()
}

// connectH2 makes the connector for HTTP/2.
func connectH2(secure bool) connector {
	return func(tb testing.TB, c *caddy) opener {
		tb.Helper()
		return dialH2(tb, c, secure).opener(tb, c)
	}
}

func (h *h2Conn) opener(tb testing.TB, c *caddy) opener {
	tb.Helper()
	h.mu.Lock()
	enabled := h.settings[http2.SettingEnableConnectProtocol]
	h.mu.Unlock()
	if enabled != 1 {
		tb.Fatal("HTTP/2: the server does not offer extended CONNECT")
	}
	scheme, authority := "http", c.http
	if _, secure := h.conn.(*tls.Conn); secure {
		scheme, authority = "https", c.https
	}
	return func(tb testing.TB, req request) stream {
		tb.Helper()
		fields := [][2]string{{":method", "CONNECT"}, {":authority", authority}}
		if req.protocol != "" {
			fields = append(fields, [2]string{":protocol", req.protocol},
				[2]string{":scheme", scheme}, [2]string{":path", req.path})
		}
		return h.open(tb, append(fields, req.fields...))
	}
}

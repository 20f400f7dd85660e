package integration

import (
	"bufio"
	"context"
	"errors"
	"io"
	"reflect"
	"testing"
	"unsafe"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
	"golang.org/x/net/http2/hpack"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// h3Attacker is a client that says what it wants over an HTTP/3 connection.
type h3Attacker struct {
	*h3Conn
	caddy *caddy
	open  opener
}

func newH3Attacker(tb testing.TB, c *caddy) *h3Attacker {
	tb.Helper()
	h := dialQUIC(tb, c)
	return &h3Attacker{h3Conn: h, caddy: c, open: h.opener(tb, c)}
}

// send writes what may be refused, as the server resets a stream or ends the connection.
func (s rawH3Stream) send(kind byte, payload []byte) error {
	_, err := s.Write(append(quicvarint.Append([]byte{kind}, uint64(len(payload))), payload...))
	return err
}

// outcome is what has become of a request: a status, the code of its reset, or that of the
// connection's end.
func (s rawH3Stream) outcome() string {
	in := bufio.NewReader(s)
	for {
		kind, err := quicvarint.Read(in)
		if err != nil {
			return outcomeOf(err)
		}
		size, err := quicvarint.Read(in)
		if err != nil {
			return outcomeOf(err)
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(in, payload); err != nil {
			return outcomeOf(err)
		}
		if kind == 1 {
			return statusOf(payload)
		}
	}
}

func outcomeOf(err error) string {
	var reset *quic.StreamError
	var end *quic.ApplicationError
	switch {
	case errors.As(err, &reset):
		return http3.ErrCode(reset.ErrorCode).String()
	case errors.As(err, &end):
		return "closed: " + http3.ErrCode(end.ErrorCode).String()
	}
	return err.Error()
}

// staticStatuses are those of the static table of QPACK (RFC 9204 appendix A).
var staticStatuses = map[byte]string{
	24: "103", 25: "200", 26: "304", 27: "404", 28: "503", 63: "100", 64: "204",
	65: "206", 66: "302", 67: "400", 68: "403", 69: "421", 70: "425", 71: "500",
}

// statusOf finds the status where servers put it: in the first field line.
func statusOf(section []byte) string {
	section = append(section, 0, 0, 0, 0)[2:]
	first := section[0]
	if first&0xC0 == 0xC0 { // indexed (RFC 9204 section 4.5.2)
		index := first & 0x3F
		if index == 0x3F {
			index += section[1]
		}
		return staticStatuses[index]
	}
	// A literal with the name of another (section 4.5.4).
	at := 1
	if first&0x0F == 0x0F {
		at = 2
	}
	size := int(section[at] & 0x7F)
	value := section[at+1:][:min(size, len(section)-at-1)]
	if section[at]&0x80 == 0 {
		return string(value)
	}
	text, err := hpack.HuffmanDecodeToString(value)
	if err != nil {
		return err.Error()
	}
	return text
}

func (a *h3Attacker) unidirectional(tb testing.TB, b []byte) {
	tb.Helper()
	s, err := a.conn.OpenUniStream()
	if err != nil {
		tb.Fatalf("HTTP/3: opening a stream: %v", err)
	}
	_, _ = s.Write(b)
}

// control is controlFrom with a control stream as it has to begin (RFC 9114 section 6.2.1).
func (a *h3Attacker) control(tb testing.TB, frames []byte, ends string) {
	tb.Helper()
	a.controlFrom(tb, []byte{0, 4, 0}, frames, ends)
}

// controlFrom sends a control stream in a connection in which no library has one, and
// expects that a tunnel in it passes messages on, or how the connection ends.
func (a *h3Attacker) controlFrom(tb testing.TB, begin, frames []byte, ends string) {
	tb.Helper()
	h := dialQUIC(tb, a.caddy)
	defer h.close()
	s := h.sendWebSocket(tb, a.caddy)
	if got := s.outcome(); got != "200" {
		tb.Fatalf("the outcome is %s", got)
	}
	control, err := h.conn.OpenUniStream()
	if err != nil {
		tb.Fatalf("HTTP/3: opening a stream: %v", err)
	}
	if _, err := control.Write(begin); err != nil {
		tb.Fatalf("HTTP/3: sending settings: %v", err)
	}
	_, err = control.Write(frames)
	if ends != "" {
		if got := s.outcome(); got != "closed: "+ends {
			tb.Errorf("the connection has ended by %s, want %s", got, ends)
		}
		return
	}
	if err != nil {
		tb.Errorf("HTTP/3: sending on the control stream: %v", err)
	}
	s.sendFrame(tb, 0, testbed.NewFrame(testbed.Text, "after control").Bytes(true))
	s.awaitText(tb, "after control")
}

// overrun sends more than the server has said it takes, on one stream or on all of many
// together, which has to end the connection (RFC 9000 section 4.1).
func (a *h3Attacker) overrun(tb testing.TB, path string, streams int) {
	tb.Helper()
	h := dialQUIC(tb, a.caddy)
	defer h.close()
	tooMuch := make([]byte, 32<<20)
	for range streams {
		s := h.openRaw(tb)
		ignoreWindows(s.Stream, streams == 1)
		s.sendFrame(tb, 1, fieldSection(goodRequest(a.caddy, true, path)))
		go func() { _ = s.send(0, tooMuch) }() // until the connection ends
	}
	within(tb, "the end of the connection", h.conn.Context().Done())
	var end *quic.TransportError
	if err := context.Cause(h.conn.Context()); !errors.As(err, &end) || end.ErrorCode != quic.FlowControlError {
		tb.Errorf("the connection has ended by %v, want %v", err, quic.FlowControlError)
	}
}

// ignoreWindows has quic-go's client, which has no way to do that, believe that the
// server has opened the connection's window, and the stream's. Nothing may have been
// sent on the stream.
func ignoreWindows(s *quic.Stream, ofStream bool) {
	open := func(pointer reflect.Value, field string) reflect.Value {
		f := pointer.Elem().FieldByName(field)
		return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()
	}
	grow := func(controller reflect.Value) {
		update := controller.MethodByName("UpdateSendWindow")
		update.Call([]reflect.Value{reflect.ValueOf(1 << 40).Convert(update.Type().In(0))})
	}
	controller := open(open(reflect.ValueOf(s), "sendStr"), "flowController")
	grow(open(controller, "connection"))
	if ofStream {
		grow(controller)
	}
}

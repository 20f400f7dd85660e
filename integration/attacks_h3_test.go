package integration

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// h3Attacks are what clients may do to a server. ends is the error by which the whole
// connection has to end, or may end.
var h3Attacks = map[string]struct {
	run  func(t *testing.T, a *h3Attacker)
	ends http3.ErrCode
	may  bool
}{
	"rapid reset": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		for range amount(5000, 1000) {
			s := a.sendWebSocket(t, a.caddy)
			s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
			s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		}
	}},
	"many that never read": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		// Streams whose windows are small, so that only they are stuck.
		h := dialQUICWith(t, a.caddy, &quic.Config{
			InitialStreamReceiveWindow: 64 << 10, MaxStreamReceiveWindow: 64 << 10, InitialConnectionReceiveWindow: 15 << 20,
		})
		open := h.opener(t, a.caddy)
		neighbour := openWebSocket(t, open, webSocket("/"))
		for range 90 {
			openWebSocket(t, open, webSocket("/flood"))
		}
		neighbour.echo(t, "beside many that never read")
		h.close()
	}},
	"windows of a byte": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		h := dialQUICWith(t, a.caddy, &quic.Config{InitialStreamReceiveWindow: 1, MaxStreamReceiveWindow: 1})
		s := h.sendWebSocket(t, a.caddy)
		s.sendFrame(t, 0, testbed.NewFrame(testbed.Text, "bit by bit").Bytes(true))
		s.awaitText(t, "bit by bit")
		h.close()
	}},
	"empty DATA": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.sendWebSocket(t, a.caddy)
		if got := s.outcome(); got != "200" {
			t.Fatalf("the outcome is %s", got)
		}
		for range 20_000 {
			s.sendFrame(t, 0, nil)
		}
		s.sendFrame(t, 0, testbed.NewFrame(testbed.Text, "after nothing").Bytes(true))
		s.awaitText(t, "after nothing")
	}},
	"DATA of single bytes": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.sendWebSocket(t, a.caddy)
		for _, b := range testbed.NewFrame(testbed.Text, "bit by bit").Bytes(true) {
			s.sendFrame(t, 0, []byte{b})
		}
		s.awaitText(t, "bit by bit")
	}},
	"unknown frames": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.sendWebSocket(t, a.caddy)
		for range 5000 {
			s.sendFrame(t, 0x21, []byte("grease"))
		}
		s.sendFrame(t, 0, testbed.NewFrame(testbed.Text, "after grease").Bytes(true))
		s.awaitText(t, "after grease")
	}},
	"DATA before HEADERS": {ends: http3.ErrCodeFrameUnexpected, run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		_ = a.openRaw(t).send(0, []byte("x"))
	}},
	"SETTINGS in a request": {ends: http3.ErrCodeFrameUnexpected, run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		_ = a.sendWebSocket(t, a.caddy).send(4, nil)
	}},
	"GOAWAY in a request": {ends: http3.ErrCodeFrameUnexpected, run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		_ = a.sendWebSocket(t, a.caddy).send(7, []byte{0})
	}},
	"a second control stream": {ends: http3.ErrCodeStreamCreationError, run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.unidirectional(t, []byte{0, 4, 0})
	}},
	"a push stream": {ends: http3.ErrCodeStreamCreationError, run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.unidirectional(t, []byte{1, 0})
	}},
	"GOAWAY on its own control stream": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.control(t, slices.Repeat([]byte{7, 1, 0}, 20_000), "")
	}},
	"grease on its own control stream": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.control(t, slices.Repeat([]byte{0x21, 6, 'g', 'r', 'e', 'a', 's', 'e'}, 20_000), "")
	}},
	"PRIORITY_UPDATE on its own control stream": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		// RFC 9218 section 7.2: of its first request, to urgency 7, and back.
		a.control(t, slices.Repeat([]byte{0x80, 0x0F, 0x07, 0, 4, 0, 'u', '=', '7', 0x80, 0x0F, 0x07, 0, 4, 0, 'u', '=', '0'}, 10_000), "")
	}},
	"PRIORITY_UPDATE of streams that are not": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		var frames []byte
		for n := range uint64(20_000) {
			id := quicvarint.AppendWithLen(nil, 4*(1000+n), 8)
			frames = append(frames, 0x80, 0x0F, 0x07, 0, byte(len(id)+3))
			frames = append(append(frames, id...), "u=0"...)
		}
		a.control(t, frames, "")
	}},
	"SETTINGS on its own control stream": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.control(t, slices.Repeat([]byte{4, 0}, 20_000), http3.ErrCodeFrameUnexpected.String())
	}},
	"a setting twice": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.controlFrom(t, []byte{0, 4, 4, 6, 1, 6, 2}, nil, http3.ErrCodeFrameError.String())
	}},
	"settings of a MiB": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		many := append([]byte{0, 4}, quicvarint.Append(nil, 1<<20)...)
		a.controlFrom(t, many, make([]byte, 1<<20), http3.ErrCodeFrameError.String())
	}},
	"no SETTINGS": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.controlFrom(t, []byte{0, 7, 1, 0}, nil, http3.ErrCodeMissingSettings.String())
	}},
	"more than a stream's window": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.overrun(t, "/stuck", 1)
	}},
	"more than a stream's window in a handshake": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.overrun(t, "/silent", 1)
	}},
	"more than a connection's window": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		a.overrun(t, "/silent", 3)
	}},
	"unknown streams": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		for range 50 {
			a.unidirectional(t, []byte{0x21, 'x'})
		}
	}},
	"60 cookies": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.sendHead(t, append(goodRequest(a.caddy, true, "/cookies"), sixtyCookies()...)...)
		if got := s.outcome(); got != "403" {
			t.Errorf("the outcome is %s, want the upstream's 403", got)
		}
	}},
	"a header of a MiB": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.openRaw(t)
		_ = s.send(1, fieldSection(append(goodRequest(a.caddy, true, "/"), longFields(1000, 1000)...)))
		if got := s.outcome(); got != "431" {
			t.Errorf("the outcome is %s", got)
		}
	}},
	"a field of a MiB": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.openRaw(t)
		_ = s.send(1, fieldSection(append(goodRequest(a.caddy, true, "/"), longFields(1, 1<<20)...)))
		if got := s.outcome(); got != "431" {
			t.Errorf("the outcome is %s", got)
		}
	}},
	"half a header": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.openRaw(t)
		section := fieldSection(goodRequest(a.caddy, true, "/"))
		if _, err := s.Write(append(quicvarint.Append([]byte{1}, uint64(len(section))), section[:20]...)); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		if got := s.outcome(); got != http3.ErrCodeRequestIncomplete.String() {
			t.Errorf("the outcome is %s", got)
		}
	}},
	"a request that is its end": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.sendWebSocket(t, a.caddy)
		_ = s.Close()
		if got := s.outcome(); got != "200" {
			t.Errorf("the outcome is %s", got)
		}
	}},
	"the end during the handshake": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.sendHead(t, goodRequest(a.caddy, true, "/silent")...)
		_ = s.Close()
		s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}},
	"a reset inside of a frame": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.sendWebSocket(t, a.caddy)
		if got := s.outcome(); got != "200" {
			t.Errorf("the outcome is %s", got)
		}
		if _, err := s.Write([]byte{0, 20, 'x'}); err != nil {
			t.Error(err)
		}
		s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}},
	"trailers": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.sendWebSocket(t, a.caddy)
		if got := s.outcome(); got != "200" {
			t.Errorf("the outcome is %s", got)
		}
		s.sendFrame(t, 1, fieldSection([][2]string{{"x-trailer", "1"}}))
		_ = s.Close()
		_, _ = io.Copy(io.Discard, s)
	}},
	"a second request on a stream": {run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		s := a.sendWebSocket(t, a.caddy)
		if got := s.outcome(); got != "200" {
			t.Errorf("the outcome is %s", got)
		}
		_ = s.send(1, fieldSection(goodRequest(a.caddy, true, "/")))
		_, _ = io.Copy(io.Discard, s) // it ends, in whatever way
	}},
	"a cut": {may: true, ends: http3.ErrCodeInternalError, run: func(t *testing.T, a *h3Attacker) {
		t.Helper()
		for range 50 {
			openWebSocket(t, a.open, webSocket("/")).echo(t, "before")
		}
		_ = a.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeInternalError), hostileText)
	}},
}

// TestAttacksOverHTTP3 has a healthy tunnel in the same connection, and one in another.
func TestAttacksOverHTTP3(t *testing.T) {
	t.Parallel()
	c := startAttacked(t)
	other := openWebSocket(t, connectH3(t, c), webSocket("/"))
	other.echo(t, "before")
	attackH3(t, c, "empty DATA") // so that all is there that is made once
	before := c.holdings(t)
	for name := range h3Attacks {
		t.Run(name, func(t *testing.T) {
			attackH3(t, c, name)
			other.echo(t, "after "+name)
		})
	}
	expectHoldings(t, c, before)
	other.echo(t, "at the end")
}

// attackH3 does one of h3Attacks.
func attackH3(t *testing.T, c *caddy, name string) {
	t.Helper()
	a := newH3Attacker(t, c)
	defer a.close()
	neighbour := openWebSocket(t, a.open, webSocket("/"))
	neighbour.echo(t, "before")
	how := h3Attacks[name]
	how.run(t, a)
	if how.ends == 0 {
		neighbour.echo(t, "after "+name)
		return
	}
	select {
	case <-a.conn.Context().Done():
	case <-time.After(timeout):
		t.Error("the connection has not ended")
	}
	got := outcomeOf(neighbour.tryEcho("after " + name))
	if want := how.ends.String(); !strings.Contains(got, want) {
		t.Errorf("the connection has ended by %s, want %s", got, want)
	}
}

package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// h2Attacks are what clients may do to a server. ends is the error by which the whole
// connection has to end, or may end.
var h2Attacks = map[string]struct {
	run  func(t *testing.T, a *h2Attacker)
	ends string
	may  bool
}{
	"rapid reset": {run: func(_ *testing.T, a *h2Attacker) { a.rapidReset(amount(5000, 1000)) }, ends: "ENHANCE_YOUR_CALM", may: true},
	"many that never read": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		a.widen(t)
		for range 100 {
			openWebSocket(t, a.open, webSocket("/flood"))
		}
	}},
	"windows of nothing": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		a.raw(func(f *http2.Framer) error { return f.WriteSettings(initialWindow(0)) })
		client := openWebSocket(t, a.open, webSocket("/"))
		client.send(t, testbed.NewFrame(testbed.Text, "bit by bit"))
		for range len(testbed.NewFrame(testbed.Text, "bit by bit").Bytes(false)) {
			a.raw(func(f *http2.Framer) error { return f.WriteWindowUpdate(client.stream.(*h2Stream).id, 1) })
		}
		client.expect(t, testbed.NewFrame(testbed.Text, "bit by bit"))
		a.raw(func(f *http2.Framer) error { return f.WriteSettings(initialWindow(1<<16 - 1)) })
	}},
	"a window that overflows": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := openWebSocket(t, a.open, webSocket("/")).stream.(*h2Stream)
		a.raw(func(f *http2.Framer) error { return f.WriteWindowUpdate(s.id, 1<<31-1) })
		a.expectReset(t, s, http2.ErrCodeFlowControl)
	}},
	"a window's update by nothing": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := openWebSocket(t, a.open, webSocket("/")).stream.(*h2Stream)
		a.raw(func(f *http2.Framer) error { return f.WriteWindowUpdate(s.id, 0) })
		a.expectReset(t, s, http2.ErrCodeProtocol)
	}},
	"the connection's window overflows": {ends: "FLOW_CONTROL_ERROR", run: func(_ *testing.T, a *h2Attacker) {
		a.raw(func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1<<31-1) })
	}},
	"an initial window too large": {ends: "FLOW_CONTROL_ERROR", run: func(_ *testing.T, a *h2Attacker) {
		a.raw(func(f *http2.Framer) error { return f.WriteSettings(initialWindow(1 << 31)) })
	}},
	"more than the window": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := openWebSocket(t, a.open, webSocket("/stuck")).stream.(*h2Stream)
		_, _ = s.writeWithin(testbed.NewFrame(testbed.Binary, strings.Repeat("x", 32<<20)).Bytes(true), time.Second)
		a.flood(40, func(f *http2.Framer) error { return f.WriteData(s.id, false, make([]byte, 16384)) })
		a.expectReset(t, s, http2.ErrCodeFlowControl)
	}},
	"padding": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		client := openWebSocket(t, a.open, webSocket("/"))
		s := client.stream.(*h2Stream)
		pad := make([]byte, 255)
		for _, b := range testbed.NewFrame(testbed.Text, strings.Repeat("padded", 1000)).Bytes(true) {
			a.awaitWindow(t, s, 257)
			a.raw(func(f *http2.Framer) error { return f.WriteDataPadded(s.id, false, []byte{b}, pad) })
		}
		client.expect(t, testbed.NewFrame(testbed.Text, strings.Repeat("padded", 1000)))
	}},
	"empty DATA": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		client := openWebSocket(t, a.open, webSocket("/"))
		id := client.stream.(*h2Stream).id
		a.flood(20_000, func(f *http2.Framer) error { return f.WriteData(id, false, nil) })
		client.echo(t, "after nothing")
	}},
	"PING": {run: func(_ *testing.T, a *h2Attacker) {
		// With 10,000 answers that wait, the server ends the connection. Who reads them
		// on a busy machine may be that slow.
		a.flood(9_000, func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
	}},
	"PING without reading the answers": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		conn := dialH2Transport(t, a.caddy, a.secure)
		defer conn.Close()
		var pings bytes.Buffer
		pings.WriteString(http2.ClientPreface)
		f := http2.NewFramer(&pings, nil)
		_ = f.WriteSettings() // never fails
		for range 1000 {
			_ = f.WritePing(false, [8]byte{}) // never fails
		}
		begin := len(http2.ClientPreface) + 9
		for sent := 0; ; sent++ {
			if sent > 10_000 {
				t.Fatal("the server takes ten million of them")
			}
			if _, err := conn.Write(pings.Bytes()[min(sent, 1)*begin:]); err != nil {
				return
			}
		}
	}},
	"SETTINGS": {run: func(_ *testing.T, a *h2Attacker) {
		for n := range uint32(2000) {
			a.raw(func(f *http2.Framer) error { return f.WriteSettings(initialWindow(n % 2 * 65535)) })
		}
		a.raw(func(f *http2.Framer) error { return f.WriteSettings(initialWindow(1<<16 - 1)) })
	}},
	"an endless header": {ends: "PROTOCOL_ERROR", run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s, block := a.begin(), a.encode()
		a.raw(func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: block})
		})
		// Literal fields with new names (RFC 7541 section 6.2.2).
		field := append([]byte{0, 1, 'x', 127, 128, 126}, make([]byte, 127+127*128)...)[:16000]
		written := a.flood(10_000, func(f *http2.Framer) error { return f.WriteContinuation(s.id, false, field) })
		if written == 10_000 {
			t.Error("the server has taken 160 MB of a header")
		}
	}},
	"CONTINUATION without HEADERS": {ends: "PROTOCOL_ERROR", run: func(_ *testing.T, a *h2Attacker) {
		a.raw(func(f *http2.Framer) error { return f.WriteContinuation(a.begin().id, true, nil) })
	}},
	"PUSH_PROMISE": {ends: "PROTOCOL_ERROR", run: func(_ *testing.T, a *h2Attacker) {
		s, block := a.begin(), a.encode()
		a.raw(func(f *http2.Framer) error {
			return f.WritePushPromise(http2.PushPromiseParam{StreamID: s.id, PromiseID: 2, BlockFragment: block, EndHeaders: true})
		})
	}},
	"DATA for nobody": {ends: "PROTOCOL_ERROR", run: func(_ *testing.T, a *h2Attacker) {
		a.raw(func(f *http2.Framer) error { return f.WriteData(a.nextID+10, false, []byte("x")) })
	}},
	"a reset of nothing": {ends: "PROTOCOL_ERROR", run: func(_ *testing.T, a *h2Attacker) {
		a.raw(func(f *http2.Framer) error { return f.WriteRSTStream(a.nextID+10, http2.ErrCodeCancel) })
	}},
	"an even stream": {ends: "PROTOCOL_ERROR", run: func(_ *testing.T, a *h2Attacker) {
		a.sendHead(&h2Stream{id: 2}, false)
	}},
	"DATA before the answer": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := a.begin()
		a.sendHead(s, false)
		client := &streamClient{stream: s}
		client.send(t, testbed.NewFrame(testbed.Text, "early"))
		if got := a.outcome(t, s); got != "200" {
			t.Errorf("the outcome is %s", got)
		}
		client.in = bufio.NewReader(streamReader{s})
		client.expect(t, testbed.NewFrame(testbed.Text, "early"))
	}},
	"a request that is its end": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := a.begin()
		a.sendHead(s, true)
		if got := a.outcome(t, s); got != "200" && got != "400" {
			t.Errorf("the outcome is %s", got)
		}
		a.await(t, "the stream's end", timeout, func() bool { return s.ended || s.reset != nil })
	}},
	"the end during the handshake": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := a.begin()
		a.sendHead(s, false, goodRequest(a.caddy, a.secure, "/silent")...)
		s.closeWrite(t)
		s.cancel(t)
	}},
	"a reset inside of a frame": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		client := openWebSocket(t, a.open, webSocket("/"))
		if _, err := client.Write(testbed.NewFrame(testbed.Text, "half of it").Bytes(true)[:5]); err != nil {
			t.Fatal(err)
		}
		client.cancel(t)
	}},
	"trailers": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		client := openWebSocket(t, a.open, webSocket("/"))
		client.echo(t, "before")
		s := client.stream.(*h2Stream)
		a.sendHead(s, true, [2]string{"x-trailer", "1"})
		a.await(t, "the stream's end", timeout, func() bool { return s.ended || s.reset != nil })
	}},
	"pseudo-fields in trailers": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := openWebSocket(t, a.open, webSocket("/")).stream.(*h2Stream)
		a.sendHead(s, true, [2]string{":path", "/other"})
		a.expectReset(t, s, http2.ErrCodeProtocol)
	}},
	"a second request on a stream": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := openWebSocket(t, a.open, webSocket("/")).stream.(*h2Stream)
		a.sendHead(s, false)
		a.expectReset(t, s, http2.ErrCodeProtocol)
	}},
	"60 cookies": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := a.begin()
		a.sendHead(s, false, append(goodRequest(a.caddy, a.secure, "/cookies"), sixtyCookies()...)...)
		if got := a.outcome(t, s); got != "403" {
			t.Errorf("the outcome is %s, want the upstream's 403", got)
		}
	}},
	// Caddy takes 16 KiB by default.
	"a header that is too large": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		s := a.begin()
		a.sendHead(s, false, append(goodRequest(a.caddy, a.secure, "/"), longFields(17, 1000)...)...)
		if got := a.outcome(t, s); got != "431" {
			t.Errorf("the outcome is %s", got)
		}
	}},
	"a header of a MiB": {ends: "PROTOCOL_ERROR", run: func(_ *testing.T, a *h2Attacker) {
		a.sendHead(a.begin(), false, append(goodRequest(a.caddy, a.secure, "/"), longFields(1000, 1000)...)...)
	}},
	"a field of a MiB": {ends: "COMPRESSION_ERROR", run: func(_ *testing.T, a *h2Attacker) {
		a.sendHead(a.begin(), false, append(goodRequest(a.caddy, a.secure, "/"), longFields(1, 1<<20)...)...)
	}},
	"GOAWAY": {run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		a.raw(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, []byte(hostileText)) })
	}},
	"GOAWAY with an error": {run: func(_ *testing.T, a *h2Attacker) {
		a.raw(func(f *http2.Framer) error { return f.WriteGoAway(1<<31-1, http2.ErrCodeInternal, nil) })
	}},
	"unknown frames": {run: func(_ *testing.T, a *h2Attacker) {
		a.flood(5000, func(f *http2.Framer) error { return f.WriteRawFrame(0xFA, 0xFF, 0, []byte("grease")) })
	}},
	"PRIORITY": {run: func(_ *testing.T, a *h2Attacker) {
		a.flood(5000, func(f *http2.Framer) error { return f.WritePriority(a.nextID, http2.PriorityParam{Weight: 7}) })
	}},
	"a cut": {may: true, run: func(t *testing.T, a *h2Attacker) {
		t.Helper()
		for range 50 {
			openWebSocket(t, a.open, webSocket("/")).echo(t, "before")
		}
		socket := a.conn
		if secure, ok := socket.(*tls.Conn); ok {
			socket = secure.NetConn()
		}
		_ = socket.(*net.TCPConn).SetLinger(0)
		_ = socket.Close()
	}},
}

const hostileText = "\x1b[31mred\x00\r\n"

func initialWindow(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
}

func sixtyCookies() (crumbs [][2]string) {
	for n := range 60 {
		crumbs = append(crumbs, [2]string{"cookie", fmt.Sprintf("c%d=%d", n, n)})
	}
	return crumbs
}

func longFields(n, size int) (fields [][2]string) {
	for i := range n {
		fields = append(fields, [2]string{fmt.Sprint("x-long-", i), strings.Repeat("x", size)})
	}
	return fields
}

// TestAttacksOverHTTP2 has a healthy tunnel in the same connection, and one in another.
func TestAttacksOverHTTP2(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"h2": true, "h2c": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startAttacked(t)
			other := openWebSocket(t, connectors[name](t, c), webSocket("/"))
			other.echo(t, "before")
			attack(t, c, secure, "PING") // so that all is there that is made once
			before := c.holdings(t)
			for name := range h2Attacks {
				t.Run(name, func(t *testing.T) {
					attack(t, c, secure, name)
					other.echo(t, "after "+name)
				})
			}
			expectHoldings(t, c, before)
			other.echo(t, "at the end")
		})
	}
}

// attack does one of h2Attacks.
func attack(t *testing.T, c *caddy, secure bool, name string) {
	t.Helper()
	a := newH2Attacker(t, c, secure)
	defer a.conn.Close()
	neighbour := openWebSocket(t, a.open, webSocket("/"))
	neighbour.echo(t, "before")
	how := h2Attacks[name]
	how.run(t, a)
	if how.ends != "" && !how.may {
		a.awaitQuietly(timeout, func() bool { return false })
		if err := a.ended(); err == nil || !strings.Contains(err.Error(), how.ends) {
			t.Errorf("the connection has ended by %v, want %s", err, how.ends)
		}
		return
	}
	if !how.may {
		neighbour.echo(t, "after "+name)
		return
	}
	if err := neighbour.tryEcho("after " + name); err != nil {
		a.awaitQuietly(timeout, func() bool { return false }) // who writes may learn of the end before who reads
		if a.ended() == nil {
			t.Errorf("the neighbour has got %v, and its connection lives", err)
		}
	}
	if err := a.ended(); err != nil && !strings.Contains(err.Error(), how.ends) {
		t.Errorf("the connection has ended by %v, want %s", err, how.ends)
	}
}

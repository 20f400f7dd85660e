package integration

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	gorilla "github.com/gorilla/websocket"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

var schemes = []string{"ws", "wss"}

// closings are the codes and reasons that are tried both ways.
var closings = []end{
	{Code: 1000},
	{Code: 1001, Reason: "bye"},
	{Code: 4000, Reason: "grund ü"},
}

var tunnelClosed = message("tunnel closed")

// TestLibraries lets clients and servers of different make talk to each other.
func TestLibraries(t *testing.T) {
	t.Parallel()
	for name, start := range servers {
		t.Run("server="+name, func(t *testing.T) {
			s := start(t)
			c := startCaddy(t, site(proxyTo(s.addr)))
			for _, scheme := range schemes {
				t.Run(scheme+"/client=node", func(t *testing.T) { testNodeClient(t, c, s, scheme) })
				for name, dial := range clients {
					l := &library{c: c, s: s, url: c.url(scheme, "/"), dial: dial}
					prefix := scheme + "/client=" + name + "/"
					t.Run(prefix+"messages", l.testMessages)
					t.Run(prefix+"compressed", l.testCompressed)
					t.Run(prefix+"pings", l.testPings)
					t.Run(prefix+"closes", l.testCloses)
				}
			}
		})
	}
}

func testNodeClient(t *testing.T, c *caddy, s *server, scheme string) {
	before := len(c.log.find(tunnelClosed))
	node(t, []string{"NODE_EXTRA_CA_CERTS=" + c.certs.CAFile}, "client.js", c.url(scheme, "/"))
	const connections = 3 + 3*2
	for _, line := range c.log.wait(t, before+connections, tunnelClosed)[before:] {
		if reason := line.str("reason"); reason != "client_closed" && reason != "upstream_closed" {
			t.Errorf("a tunnel of a good client ended with %v", line)
		}
	}
	for range connections { // the next client shall find its own
		within(t, "the server saw the end", s.ends)
	}
}

// library is one client library at one server.
type library struct {
	c    *caddy
	s    *server
	url  string
	dial func(testing.TB, string, dialOptions) client
	long int // bytes of a long message; 0 for 8 MiB
}

func (l *library) connect(tb testing.TB, opts dialOptions) client {
	tb.Helper()
	opts.tls = l.c.certs.ClientConfig()
	return l.dial(tb, l.url, opts)
}

// ended waits for the end of c's tunnel and returns its line, and what the
// server got in the end.
func (l *library) ended(tb testing.TB, c client) (entry, end) {
	tb.Helper()
	line := l.c.log.waitOne(tb, message("tunnel closed", "tunnel", tunnelID(c.handshake())))
	return line, within(tb, "the server saw the end", l.s.ends)
}

func (l *library) testMessages(t *testing.T) {
	offered := []string{"chat.v1", "chat.v2"}
	c := l.connect(t, dialOptions{subprotocols: offered})
	if got := c.handshake().Header.Get("Sec-WebSocket-Protocol"); got != "chat.v2" {
		t.Errorf("the client got subprotocol %q, want chat.v2", got)
	}
	if got := extensions(c); got != "" {
		t.Errorf("the client got extensions %q without asking for any", got)
	}
	echoText(t, c, "")
	echoText(t, c, "text: \U0001f984 ü")
	echo(t, c, gorilla.BinaryMessage, randomBytes(126))
	echo(t, c, gorilla.BinaryMessage, randomBytes(70_000))

	parts := []string{strings.Repeat("a", 3000), strings.Repeat("b", 5000), strings.Repeat("c", 7000)}
	c.writeParts(t, gorilla.TextMessage, parts...)
	if typ, got := c.read(t); typ != gorilla.TextMessage || string(got) != strings.Join(parts, "") {
		t.Errorf("a message in parts came back with type %d and %d bytes", typ, len(got))
	}

	echo(t, c, gorilla.BinaryMessage, randomBytes(cmp.Or(l.long, 8<<20)))
	c.close(t, 1000, "")
	line, serverEnd := l.ended(t, c)
	if in, out := line.num("messages_in"), line.num("messages_out"); in != 6 || out != 6 {
		t.Errorf("the log has %v messages in and %v out, want 6 and 6", in, out)
	}
	if got := serverEnd.Subprotocol; got != "chat.v2" {
		t.Errorf("the server got subprotocol %q, want chat.v2", got)
	}
}

// testCompressed checks that compression is negotiated by the peers and that
// messages pass as they are compressed, with the context that they share.
func (l *library) testCompressed(t *testing.T) {
	c := l.connect(t, dialOptions{compress: true})
	if got := extensions(c); !strings.Contains(got, "permessage-deflate") {
		t.Fatalf("extensions are %q, without compression", got)
	}
	const repeats = 20
	text := hex.EncodeToString(randomBytes(600))
	for range repeats {
		echoText(t, c, text)
	}
	c.close(t, 1000, "")
	line, _ := l.ended(t, c)

	// Hexadecimal digits take half a byte; with a shared context repetitions
	// take next to nothing.
	most := float64(repeats * len(text) * 2 / 3)
	if !strings.Contains(extensions(c), "no_context_takeover") {
		most = float64(4 * len(text))
	}
	if in, out := line.num("bytes_in"), line.num("bytes_out"); in > most || out > most {
		t.Errorf("%d times %d bytes took %v bytes in and %v out (%s), want at most %v",
			repeats, len(text), in, out, extensions(c), most)
	}
}

func (l *library) testPings(t *testing.T) {
	c := l.connect(t, dialOptions{})
	c.ping(t)
	c.write(t, gorilla.TextMessage, []byte("!ping server"))
	if _, got := c.read(t); string(got) != "!pong server" {
		t.Errorf("after the server's ping: got %q, want the pong's payload", got)
	}
	c.close(t, 1000, "")
	l.ended(t, c)
}

func (l *library) testCloses(t *testing.T) {
	for _, want := range closings {
		c := l.connect(t, dialOptions{})
		c.close(t, want.Code, want.Reason)
		line, got := l.ended(t, c)
		checkClosedBy(t, line, "client", want.Code)
		if got != want {
			t.Errorf("the server got %+v, want %+v", got, want)
		}

		c = l.connect(t, dialOptions{})
		c.write(t, gorilla.TextMessage, fmt.Appendf(nil, "!close %d %s", want.Code, want.Reason))
		if code, reason := c.awaitClose(t); code != want.Code || reason != want.Reason {
			t.Errorf("the client got Close %d %q, want %+v", code, reason, want)
		}
		line, got = l.ended(t, c)
		checkClosedBy(t, line, "upstream", want.Code)
		if got.Code != want.Code {
			t.Errorf("the server got the answer %+v, want code %d", got, want.Code)
		}
	}
}

func checkClosedBy(tb testing.TB, line entry, who string, code int) {
	tb.Helper()
	if line.str("reason") != who+"_closed" || line.str("closed_by") != who ||
		line.str("close_from") != who || line.num("close_code") != float64(code) {
		tb.Errorf("logged %v, want a close by the %s with code %d", line, who, code)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// TestBytesPassUnchanged compares what leaves one side with what arrives at the
// other, byte for byte: the mask keys, the fragments with control frames between
// them, and the bits that belong to extensions.
func TestBytesPassUnchanged(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, nil)
	c := startCaddy(t, site(proxyTo(up.Addr)))
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			client := c.dial(t, scheme == "wss")
			var upstream *testbed.Conn
			accepted := testbed.Go(t, func(tb testing.TB) {
				upstream = up.Next(tb)
				upstream.AcceptHandshake()
			})
			client.Handshake("/")
			accepted()

			for _, way := range []struct {
				from, to *testbed.Conn
				masked   bool
			}{{client.Conn, upstream, true}, {upstream, client.Conn, false}} {
				sent := string(oddFrames(way.masked))
				sending := testbed.Go(t, func(testing.TB) { way.from.Send(sent) })
				way.to.Expect(sent)
				sending()
			}
			client.CloseWrite()
			upstream.ExpectEOF()
			upstream.Send("the other way is still open")
			client.Expect("the other way is still open")
			upstream.Close()
			client.ExpectEOF()
		})
	}
}

// oddFrames are legal frames of many kinds.
func oddFrames(masked bool) []byte {
	frames := []testbed.Frame{
		testbed.NewFrame(testbed.Text, ""),
		testbed.NewFrame(testbed.Text, "short"),
		{Opcode: testbed.Text, Payload: []byte("a fragment")},
		testbed.NewFrame(testbed.Ping, strings.Repeat("p", 125)),
		{Opcode: testbed.Continuation},
		testbed.NewFrame(testbed.Pong, ""),
		{Fin: true, Opcode: testbed.Continuation, Payload: []byte("the last fragment")},
		{Fin: true, RSV: 4, Opcode: testbed.Binary, Payload: []byte("compressed")},
		{Fin: true, RSV: 2, Opcode: 0x3, Payload: []byte("of another extension")},
	}
	for _, size := range []int{125, 126, 127, 0xFFFF, 0x10000, 1 << 20} {
		frames = append(frames, testbed.Frame{Fin: true, Opcode: testbed.Binary, Payload: randomBytes(size)})
	}
	var all [][]byte
	for _, f := range frames {
		all = append(all, f.Bytes(masked))
	}
	return slices.Concat(all...)
}

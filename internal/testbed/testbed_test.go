package testbed_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestClientTalksToEcho(t *testing.T) {
	certs := testbed.NewCerts(t)
	tests := map[string]struct {
		upstream func() *testbed.Upstream
		dial     func(addr string) *testbed.Client
	}{
		"tcp": {
			func() *testbed.Upstream { return testbed.NewUpstream(t, testbed.Echo) },
			func(addr string) *testbed.Client { return testbed.Dial(t, addr) },
		},
		"unix": {
			func() *testbed.Upstream { return testbed.NewUnixUpstream(t, testbed.Echo) },
			func(addr string) *testbed.Client { return testbed.Dial(t, addr) },
		},
		"tls": {
			func() *testbed.Upstream {
				return testbed.NewTLSUpstream(t, certs.ServerConfig(), testbed.Echo)
			},
			func(addr string) *testbed.Client { return testbed.DialTLS(t, addr, certs.ClientConfig()) },
		},
		"mutual tls": {
			func() *testbed.Upstream {
				return testbed.NewTLSUpstream(t, certs.MutualServerConfig(), testbed.Echo)
			},
			func(addr string) *testbed.Client {
				return testbed.DialTLS(t, addr, certs.MutualClientConfig())
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			u := test.upstream()
			c := test.dial(u.Addr)
			c.Handshake("/chat")
			u.WaitOpen(t, 1)

			c.Echo("hello")
			c.Echo("")
			c.Echo(strings.Repeat("x", 126))
			c.Echo(strings.Repeat("y", 0x10000))
			c.Echo(strings.Repeat("z", 1<<20))
			c.WriteFrame(testbed.NewFrame(testbed.Ping, "are you there"))
			c.ExpectFrame(testbed.Pong, "are you there")
			c.ExpectNothing(time.Millisecond)
			c.CloseHandshake(1000)

			u.WaitOpen(t, 0)
			u.WaitAccepted(t, 1)
		})
	}
}

func TestEchoKeepsFragmentsAndReservedBits(t *testing.T) {
	u := testbed.NewUpstream(t, testbed.Echo)
	c := testbed.Dial(t, u.Addr)
	c.Handshake("/")

	for _, f := range []testbed.Frame{
		{RSV: 4, Opcode: testbed.Text, Payload: []byte("one")},
		{Opcode: testbed.Continuation, Payload: []byte("two")},
		{Fin: true, Opcode: testbed.Continuation},
	} {
		c.WriteFrame(f)
		c.Expect(string(f.Bytes(false)))
	}
	c.CloseHandshake(0)
}

func TestEchoWithAddsHeaderLines(t *testing.T) {
	u := testbed.NewUpstream(t, testbed.EchoWith("Sec-WebSocket-Protocol: chat", "x-ODD: 1"))
	c := testbed.Dial(t, u.Addr)
	resp := c.Handshake("/", "Sec-WebSocket-Protocol: chat")

	if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != "chat" {
		t.Errorf("got subprotocol %q, want chat", got)
	}
	want := "HTTP/1.1 101 Switching Protocols\r\n" +
		"Upgrade: websocket\r\n" +
		"Connection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" +
		"Sec-WebSocket-Protocol: chat\r\n" +
		"x-ODD: 1\r\n" +
		"\r\n"
	if got := c.RawHead(); got != want {
		t.Errorf("got head\n%q\nwant\n%q", got, want)
	}
}

func TestRawHeadIsWhatTheClientSent(t *testing.T) {
	u := testbed.NewUpstream(t, nil)
	c := testbed.Dial(t, u.Addr)
	up := u.Next(t)

	const head = "POST /a HTTP/1.1\r\nhOST: example.com\r\nX-b:  2 \r\nContent-Length: 4\r\n\r\n"
	handshake := testbed.HandshakeRequest("/b", "example.com")
	c.Send(head + "body" + handshake + "early")

	req := up.ReadRequest()
	if got := up.RawHead(); got != head {
		t.Errorf("got head %q, want %q", got, head)
	}
	body, err := io.ReadAll(req.Body)
	if string(body) != "body" || err != nil {
		t.Errorf("got body %q and error %v, want body", body, err)
	}
	up.AcceptHandshake()
	if got := up.RawHead(); got != handshake {
		t.Errorf("got head %q, want %q", got, handshake)
	}
	up.Expect("early")
}

func TestExtraLinesReplaceAndRemoveDefaults(t *testing.T) {
	got := testbed.HandshakeRequest("/x?y=1", "example.com",
		"sec-websocket-version: 8", "Upgrade:", "X-Empty:", "Sec-WebSocket-Version: 13")
	want := "GET /x?y=1 HTTP/1.1\r\n" +
		"Host: example.com\r\n" +
		"Connection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"sec-websocket-version: 8\r\n" +
		"X-Empty:\r\n" +
		"Sec-WebSocket-Version: 13\r\n" +
		"\r\n"
	if got != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

func TestHalfClose(t *testing.T) {
	certs := testbed.NewCerts(t)
	tests := map[string]func() (*testbed.Upstream, *testbed.Client){
		"tcp": func() (*testbed.Upstream, *testbed.Client) {
			u := testbed.NewUpstream(t, nil)
			return u, testbed.Dial(t, u.Addr)
		},
		"tls": func() (*testbed.Upstream, *testbed.Client) {
			u := testbed.NewTLSUpstream(t, certs.ServerConfig(), nil)
			return u, testbed.DialTLS(t, u.Addr, certs.ClientConfig())
		},
		"unix": func() (*testbed.Upstream, *testbed.Client) {
			u := testbed.NewUnixUpstream(t, nil)
			return u, testbed.Dial(t, u.Addr)
		},
	}
	for name, connect := range tests {
		t.Run(name, func(t *testing.T) {
			u, c := connect()
			up := u.Next(t)
			c.Send("last words")
			c.CloseWrite()
			up.Expect("last words")
			up.ExpectEOF()
			up.Send("the answer")
			up.Close()
			if got := c.ReadAll(); got != "the answer" {
				t.Errorf("got %q, want the answer", got)
			}
			u.WaitOpen(t, 0)
		})
	}
}

func TestReset(t *testing.T) {
	certs := testbed.NewCerts(t)
	u := testbed.NewTLSUpstream(t, certs.ServerConfig(), nil)
	c := testbed.DialTLS(t, u.Addr, certs.ClientConfig())
	up := u.Next(t)
	up.Reset()
	c.ExpectReset()
	u.WaitOpen(t, 0)

	c = testbed.DialTLS(t, u.Addr, certs.ClientConfig())
	up = u.Next(t)
	c.Reset()
	up.ExpectClosed()
}

func TestStopAndStart(t *testing.T) {
	u := testbed.NewUpstream(t, testbed.Echo)
	c := testbed.Dial(t, u.Addr)
	c.Handshake("/")

	u.Stop()
	expectRefused(t, u.Addr)
	c.Echo("those accepted go on")

	u.Start(t)
	testbed.Dial(t, u.Addr).Handshake("/")
	u.WaitAccepted(t, 2)
	u.WaitOpen(t, 2)
}

func TestRefusedAddrRefuses(t *testing.T) {
	expectRefused(t, testbed.RefusedAddr(t))
}

func expectRefused(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, testbed.Timeout)
	if err == nil {
		_ = conn.Close()
		t.Errorf("dialing %s succeeded, want it refused", addr)
	}
}

func TestGoRunsClientsSideBySide(t *testing.T) {
	u := testbed.NewUpstream(t, testbed.Echo)
	var waits []func()
	for range 20 {
		waits = append(waits, testbed.Go(t, func(tb testing.TB) {
			tb.Helper()
			c := testbed.Dial(tb, u.Addr)
			c.Handshake("/")
			c.Echo("hello")
			c.CloseHandshake(1000)
		}))
	}
	for _, wait := range waits {
		wait()
	}
	u.WaitAccepted(t, 20)
	u.WaitOpen(t, 0)
}

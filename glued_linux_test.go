package websocketproxy

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// dataSegments is how many segments with data a TCP connection has received.
func dataSegments(tb testing.TB, c *testbed.Conn) (n uint32) {
	tb.Helper()
	tcp, ok := c.NetConn().(*net.TCPConn)
	if !ok {
		tb.Fatalf("%T has no segments", c.NetConn())
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	if controlErr := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Data_segs_in
		}
	}); controlErr != nil || err != nil {
		tb.Fatal(controlErr, err)
	}
	return n
}

// net/http reads a byte to learn whether the client is still there while the handler
// waits for the upstream. With the rest of its frame it is one packet.
func TestFirstFrameOfAClientGoesUpAsOnePacket(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	u := up.Next(t)
	req := u.ReadRequest()
	before := dataSegments(t, u)
	c.WriteFrame(testbed.NewFrame(testbed.Text, "the first frame"))
	u.Accept(req)
	c.Response()
	u.ExpectFrame(testbed.Text, "the first frame")
	if n := dataSegments(t, u) - before; n != 1 {
		t.Errorf("the frame came in %d segments, want 1", n)
	}
}

package conn

import (
	"net"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestWhatOtherStreamsWriteIsNotAhead(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	c, err := net.Dial("tcp", up.Addr)
	if err != nil {
		t.Fatal(err)
	}
	socket := Socket{c}
	defer socket.Abort()
	u := up.Next(t)
	// As much as the systems take, which may need some time to find that they have room again.
	fill := func() {
		t.Helper()
		written := 0
		for end := time.Now().Add(testbed.Timeout); written == 0 && time.Now().Before(end); {
			_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			for block := make([]byte, 1<<20); ; {
				n, err := c.Write(block)
				written += n
				if err != nil {
					break
				}
			}
		}
		if written == 0 {
			t.Fatal("nothing could be written")
		}
	}
	var one ahead
	if got := one.left(socket, 0); got != 0 {
		t.Errorf("%d bytes are ahead of nothing", got)
	}
	fill()
	first := one.left(socket, 1)
	if first <= 0 {
		t.Fatalf("%d bytes are ahead, though the peer does not read", first)
	}
	read := func() {
		if _, err := u.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	for one.left(socket, 1) > first/2 {
		read()
	}
	half := one.left(socket, 1)
	fill() // by another one
	if got := one.left(socket, 1); got > half {
		t.Errorf("%d bytes are ahead, and were %d before others wrote", got, half)
	}
	if got := one.left(socket, 2); got <= half {
		t.Errorf("%d bytes are ahead of what was written behind %d", got, half)
	}
	for one.left(socket, 2) > 0 {
		read()
	}
}

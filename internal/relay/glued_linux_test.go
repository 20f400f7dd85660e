package relay

import (
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// segments is how many segments with data a socket has received.
func segments(tb testing.TB, c net.Conn) int {
	tb.Helper()
	tcp, ok := raw(c).(*net.TCPConn)
	if !ok {
		tb.Fatalf("%T has no segments", c)
	}
	conn, err := tcp.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	var info *unix.TCPInfo
	if controlErr := conn.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); controlErr != nil || err != nil {
		tb.Fatal(controlErr, err)
	}
	return int(info.Data_segs_in)
}

// A server of HTTP has taken a byte of the first message, as net/http does; the rest of
// it is in the system, or in TLS. The peer gets all of it at once.
func TestByteThatWasTakenGoesWithTheRest(t *testing.T) {
	all := openers(t)
	for _, name := range []string{"parked", "polled"} {
		for _, kinds := range [][2]string{{"tcp", "tcp"}, {"tls", "tcp"}, {"tcp", "tls"}} {
			for d, direction := range directions {
				t.Run(name+"/"+kinds[0]+"/"+kinds[1]+"/"+direction, func(t *testing.T) {
					w := newRig(t, implementations[name], all[kinds[0]], all[kinds[1]]).way(Direction(d))
					expectOneSegment(t, w)
				})
			}
		}
	}
}

func expectOneSegment(t *testing.T, w way) {
	t.Helper()
	const all = "the first message"
	w.from.send(all)
	first := make([]byte, 1)
	if _, err := io.ReadFull(w.conns[w.d], first); err != nil {
		t.Fatal(err)
	}
	w.glue(string(first))
	before := segments(t, w.to.Conn)
	w.start()
	w.to.expect(all)
	if n := segments(t, w.to.Conn) - before; n != 1 {
		t.Errorf("the message came in %d segments, want 1", n)
	}
	w.from.expectEcho(w.to, "goes on")
	w.waitTaken(w.d, uint64(len(all+"goes on")))
}

// What was taken waits for nothing.
func TestByteThatWasTakenIsNotHeldBack(t *testing.T) {
	eachWay(t, allKinds, func(t *testing.T, w way) {
		w.glue("1")
		w.start()
		w.to.expect("1")
		w.from.send("2")
		w.to.expect("2")
		w.from.closeWrite()
		w.to.expectEnd()
	})
}

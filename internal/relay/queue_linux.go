package relay

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// received is how many bytes a socket has received that were not read.
func received(fd int) int {
	n, err := unix.IoctlGetUint32(fd, unix.SIOCINQ)
	if err != nil {
		return 0 // nobody knows
	}
	return int(n)
}

// queue tells what the socket of a connection has received.
type queue struct {
	socket syscall.Conn
	raw    syscall.RawConn
	look   func(fd uintptr) // made once, as each would be allocated
	n      int
}

func (q *queue) received() int {
	if q.raw == nil {
		raw, err := q.socket.SyscallConn()
		if err != nil {
			return 0 // closed
		}
		q.raw, q.look = raw, func(fd uintptr) { q.n = received(int(fd)) }
	}
	if q.raw.Control(q.look) != nil {
		return 0 // closed
	}
	return q.n
}

// readMore reads what there is behind the bytes that came buffered with a handshake,
// without waiting.
func (l *parkingLot) readMore(d Direction, src Conn, b []byte) int {
	conn := l.sources[d]
	switch {
	case conn == nil:
		return 0
	case isBare(src):
		if q := (&queue{socket: conn.Socket()}); q.received() == 0 {
			return 0
		}
	default:
		// TLS has read more than it has returned, and returns that first. The rest of a
		// record of which it has a part would have to be waited for.
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
	}
	n, _ := src.Read(b) // errors come again
	return n
}

func isBare(c Conn) bool {
	b, ok := c.(bare)
	return ok && b.Bare() != nil
}

package websocketproxy

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// backlog asks the kernel how many bytes it has not sent, or the peer's has not
// acknowledged.
func backlog(conn syscall.Conn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	var n int
	if raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) != nil || err != nil {
		return 0 // nobody knows
	}
	return n
}

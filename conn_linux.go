package websocketproxy

import (
	"syscall"
	"time"

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

// setUserTimeout sets TCP_USER_TIMEOUT. It fails only for connections that have
// just been reset, which is noticed soon enough.
func setUserTimeout(conn syscall.Conn, d time.Duration) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
	}
}

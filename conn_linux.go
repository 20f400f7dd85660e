package websocketproxy

import (
	"syscall"
	"unsafe"
)

// backlog asks the kernel how many bytes it has not sent, or the peer's has not
// acknowledged.
func backlog(conn syscall.Conn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	var n int32
	// Errors leave n at 0, "nobody knows".
	_ = raw.Control(func(fd uintptr) {
		//nolint:gosec // tcp(7): SIOCOUTQ, which has the number of TIOCOUTQ, stores an int
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	})
	return int(n)
}

package conn

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
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

// acknowledged asks the kernel how many bytes of a TCP connection the peer's has
// acknowledged so far.
func acknowledged(conn syscall.Conn) (n uint64, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info *unix.TCPInfo
	if raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}) != nil || err != nil {
		return 0, false
	}
	return info.Bytes_acked, true
}

// resetOnClose has a connection of TCP be closed by a reset.
func resetOnClose(conn interface{ SetLinger(sec int) error }) {
	_ = conn.SetLinger(0) // fails for one that is closed
}

// setUserTimeout sets TCP_USER_TIMEOUT, see [relay.SetUserTimeout].
func setUserTimeout(conn syscall.Conn, d time.Duration) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	// It fails for a connection that is closed already.
	_ = raw.Control(func(fd uintptr) { relay.SetUserTimeout(int(fd), d) })
}

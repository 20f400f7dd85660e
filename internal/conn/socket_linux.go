package conn

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

// lostProbes is how many keepalive probes in a row have to go unanswered before a
// peer counts as gone.
const lostProbes = 4

// setUserTimeout sets TCP_USER_TIMEOUT to d or more: where it is set, it takes the
// place of the number of keepalive probes. Were it over soon after the first one,
// that one only had to get lost, and when thousands of tunnels fell silent
// together, their probes do. It fails only for connections that have just been
// reset, which is noticed soon enough.
func setUserTimeout(conn syscall.Conn, d time.Duration) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		d = max(d, probing(int(fd)))
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

// probing is how long a connection has to be silent until enough probes are lost,
// or zero if there are none.
func probing(fd int) time.Duration {
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || on == 0 {
		return 0
	}
	idle, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
	if err != nil {
		return 0
	}
	interval, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
	if err != nil {
		return 0
	}
	return time.Duration(idle+lostProbes*interval) * time.Second
}

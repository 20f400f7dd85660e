package relay

import (
	"time"

	"golang.org/x/sys/unix"
)

// lostProbes is how many keepalive probes in a row have to go unanswered before a
// peer counts as gone.
const lostProbes = 4

// SetUserTimeout sets TCP_USER_TIMEOUT of a socket to d or more: where it is set, it
// takes the place of the number of keepalive probes. Were it over soon after the first
// one, that one only had to get lost, and when thousands of tunnels fell silent
// together, their probes do. It fails only for sockets that are not TCP's, which need
// none, and for connections that have just been reset, which is noticed soon enough.
func SetUserTimeout(fd int, d time.Duration) {
	d = max(d, probing(fd))
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
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

package dial

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// shortages are the errors that say that this side has run out of something, with
// what that is and which limit to raise. They say nothing about an upstream.
var shortages = []struct {
	err  error
	lack string
}{
	{syscall.EMFILE, "this process has as many files open as it may; raise LimitNOFILE of its systemd unit, or ulimit -n"},
	{syscall.ENFILE, "the system has as many files open as it may; raise the sysctl fs.file-max"},
	{syscall.ENOBUFS, noMemory},
	{syscall.ENOMEM, noMemory},
	{syscall.EADDRNOTAVAIL, noPort},
	{syscall.EADDRINUSE, noPort},
	{wsaTooManyFiles, "this process has as many sockets open as it may"},
	{wsaNoBuffers, noMemory},
	{wsaAddrNotAvailable, noPort},
	{wsaAddrInUse, noPort},
}

const (
	noMemory = "the system has no memory for another socket; raise the sysctl net.ipv4.tcp_mem, or give it more"
	noPort   = "no local address and port is left for another connection there; widen the sysctl " +
		"net.ipv4.ip_local_port_range, or have the upstream listen at more addresses"
)

// What Windows says for the same.
const (
	wsaTooManyFiles     = syscall.Errno(10024)
	wsaAddrInUse        = syscall.Errno(10048)
	wsaAddrNotAvailable = syscall.Errno(10049)
	wsaNoBuffers        = syscall.Errno(10055)
)

// Shortage returns what the error of a dial says this side has run out of, or
// nothing. It goes by the text, as [Dialer.Connect] may hide what error it has met,
// and the resolver does so too. The texts are the system's, not the upstream's.
func Shortage(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, s := range shortages {
		if strings.HasSuffix(text, s.err.Error()) && (s.lack != noPort || isOutOfPorts(text)) {
			return s.lack
		}
	}
	if strings.Contains(text, "lookup ") && strings.HasPrefix(text, "dial") {
		return shortageOfLookups()
	}
	return ""
}

// isOutOfPorts tells apart why no local address and port can be had for a
// destination: that is also said for one of a family that this machine has no
// address of, such as ::1 where IPv6 is off. UDP finds out without a packet.
func isOutOfPorts(text string) bool {
	_, hostport, _ := strings.Cut(text, "dial tcp ")
	hostport, _, _ = strings.Cut(hostport, ": ")
	if _, to, found := strings.Cut(hostport, "->"); found {
		hostport = to
	}
	to, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return true
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// shortageOfLookups is shortageIn for a name that was not found: the resolver takes
// a hosts file that it cannot open for an empty one.
func shortageOfLookups() string {
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		for _, s := range shortages {
			if errors.Is(err, s.err) {
				return s.lack
			}
		}
		return ""
	}
	_ = conn.Close() // nothing was sent
	return ""
}

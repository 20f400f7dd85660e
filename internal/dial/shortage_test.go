package dial

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
)

// A machine without an address of a family says the same as one without ports.
func TestAddressThatCannotBeReachedIsNoShortage(t *testing.T) {
	unreachable := &net.OpError{
		Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL),
		Addr: &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: "nosuchinterface"},
	}
	if lack := Shortage(unreachable); lack != "" {
		t.Errorf("taken for a shortage: %s", lack)
	}
	reachable := *unreachable
	reachable.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
	if Shortage(&reachable) == "" {
		t.Error("not taken for a shortage of ports")
	}
	for _, err := range []error{nil, errors.New("x"), syscall.ECONNREFUSED, &net.DNSError{Err: "no such host", Name: "a"}} {
		if lack := Shortage(err); lack != "" {
			t.Errorf("%v is taken for a shortage: %s", err, lack)
		}
	}
}

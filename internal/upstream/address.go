package upstream

import (
	"fmt"
	"net"
	"strconv"
)

// Address is what is dialed, and its parts.
type Address struct {
	Network, HostPort, Hostname, Port string
}

// Key is what the address is known by: host and port, with the network where that
// is not TCP.
func (a Address) Key() string {
	if a.Network == "" || a.Network == "tcp" {
		return a.HostPort
	}
	return a.Network + "/" + a.HostPort
}

// AtPort returns the address with another port if that is not zero. A unix socket
// has none.
func (a Address) AtPort(port int) (Address, error) {
	switch {
	case port == 0:
		return a, nil
	case a.Network == "unix":
		return a, fmt.Errorf("%s is a unix socket and has no port", a.Key())
	}
	a.Port = strconv.Itoa(port)
	a.HostPort = net.JoinHostPort(a.Hostname, a.Port)
	return a, nil
}

package relay

import (
	"net"
	"syscall"
)

func init() {
	implementations["polled"] = func(client, upstream Side, hooks Hooks) Relay {
		return Start(bareSide(client), bareSide(upstream), hooks)
	}
}

// bareSocket is a socket that may be unwrapped.
type bareSocket struct{ socket }

func (s bareSocket) Bare() syscall.Conn {
	switch c := s.Conn.(type) {
	case *net.TCPConn:
		return c
	case *net.UnixConn:
		return c
	}
	return nil
}

func bareSide(side Side) Side {
	if s, ok := side.Conn.(socket); ok {
		side.Conn = bareSocket{s}
	}
	return side
}

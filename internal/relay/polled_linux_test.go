package relay

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

func init() {
	// Directions are parked all the time, also of plain sockets.
	implementations["parked"] = func(client, upstream Side, hooks Hooks) Relay {
		return startParking(bareSide(client), bareSide(upstream), hooks, time.Millisecond)
	}
	splices = func(r Relay) bool { _, ok := r.(*polled); return ok }
	implementations["polled"] = func(client, upstream Side, hooks Hooks) Relay {
		return Start(bareSide(client), bareSide(upstream), hooks)
	}
	implementations["handed over"] = func(client, upstream Side, hooks Hooks) Relay {
		h := &handOver{Hooks: hooks}
		r := Start(bareSide(client), bareSide(upstream), h)
		if p, ok := r.(*polled); ok {
			h.relay.Store(p)
		}
		return r
	}
}

// handOver has the next poller take the relay over after each chunk, until it is
// settled.
type handOver struct {
	Hooks

	relay atomic.Pointer[polled]
}

func (h *handOver) Inspect(d Direction, p []byte) Verdict {
	rec, ok := h.Hooks.(*recorder)
	if r := h.relay.Load(); r != nil && (!ok || !rec.settled.Load()) {
		r.send(func() { r.moveTo(r.poller.all[(r.poller.index+1)%len(r.poller.all)]) })
	}
	return h.Hooks.Inspect(d, p)
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

func (s bareSocket) Socket() syscall.Conn {
	return bareSocket{socket{raw(s.Conn)}}.Bare()
}

func bareSide(side Side) Side {
	if s, ok := side.Conn.(socket); ok {
		side.Conn = bareSocket{s}
	}
	return side
}

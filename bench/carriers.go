package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// Protocols that carry many tunnels in one connection.
const (
	http2Name = "HTTP/2"
	http3Name = "HTTP/3"
)

// carriage is how tunnels travel: over which protocol, and how many share a
// connection. Its zero value is HTTP/1.1.
type carriage struct {
	protocol string
	most     int
}

func (c carriage) String() string { return fmt.Sprintf("%s, %d a connection", c.protocol, c.most) }

// stream is what a tunnel's bytes pass through: a connection, or a part of one.
type stream interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// carrier is one connection with many streams.
type carrier interface {
	io.Closer
	// open returns a stream on which a WebSocket has been accepted.
	open(ctx context.Context, path string) (stream, error)
}

// carriers opens streams, so many in each connection, and connections as needed.
type carriers struct {
	dial func(context.Context) (carrier, error)
	most int

	mu   sync.Mutex // guards the following
	all  []carrier
	left int // streams for which the last connection has room
}

func newCarriers(t target, way carriage) *carriers {
	c := &carriers{most: way.most}
	c.dial = func(ctx context.Context) (carrier, error) { return dialH2(ctx, t) }
	if way.protocol == http3Name {
		c.dial = func(ctx context.Context) (carrier, error) { return dialH3(ctx, t) }
	}
	return c
}

func (c *carriers) open(ctx context.Context, path string) (stream, error) {
	one, err := c.take(ctx)
	if err != nil {
		return nil, err
	}
	return one.open(ctx, path)
}

// take returns a connection with room for a stream, and takes it.
func (c *carriers) take(ctx context.Context) (carrier, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		one, err := c.dial(ctx)
		if err != nil {
			return nil, err
		}
		c.all = append(c.all, one)
		c.left = c.most
	}
	c.left--
	return c.all[len(c.all)-1], nil
}

// close closes all connections.
func (c *carriers) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.all {
		closeQuietly(one)
	}
}

// carried makes a measurement one of tunnels that travel as way says.
func (m measurement) carried(way carriage) measurement {
	run := m.run
	m.way = way
	m.run = func(ctx context.Context, s subject) ([]float64, error) {
		s.carriers = newCarriers(s.target, way)
		s.bulkBytes /= streamBulkShare
		defer s.carriers.close()
		return run(ctx, s)
	}
	return m
}

// streamMeasurements lists the measurements of tunnels that share connections,
// and of the same tunnels with a connection for each.
func streamMeasurements(s scale) []measurement {
	var list []measurement
	for _, way := range []carriage{{http2Name, shared}, {http2Name, 1}, {http3Name, shared}, {http3Name, 1}} {
		of := []measurement{idleStreams(s.streamTunnels), echoMeasurement()}
		if way.most > 1 {
			of = append(of, bulkMeasurements(s.streamFrame)...)
		}
		for _, m := range named(of, ", "+way.String()) {
			list = append(list, m.carried(way))
		}
	}
	return list
}

// streamBulkShare is the part of other bulk transfers that those over streams move,
// as the clients, which share the processors, need longer for these.
const streamBulkShare = 4

// shared is how many tunnels share a connection: what HAProxy and quic-go allow
// for, unless they are told otherwise.
const shared = 100

func idleStreams(n int) measurement {
	return measurement{
		rows: []row{
			{"memory per idle tunnel at " + formatCount(n), "KiB"},
			{"goroutines per idle tunnel", ""},
		},
		run: func(ctx context.Context, s subject) ([]float64, error) { return measureIdleStreams(ctx, s, n) },
	}
}

// measureIdleStreams returns memory in KiB and goroutines per idle tunnel.
func measureIdleStreams(ctx context.Context, s subject, n int) ([]float64, error) {
	// The protocol itself must have been in use, as the others were when
	// it was found out whether they are served.
	if err := tryEcho(ctx, s.target); err != nil {
		return nil, err
	}
	goroutines, err := s.admin.count(ctx)
	if err != nil {
		return nil, err
	}
	crowd, err := newCrowd(s)
	if err != nil {
		return nil, err
	}
	defer crowd.leave()
	if err := crowd.growTo(ctx, n); err != nil {
		return nil, err
	}
	held, err := crowd.read(ctx)
	if err != nil {
		return nil, err
	}
	more, err := s.admin.count(ctx)
	if err != nil {
		return nil, err
	}
	return []float64{crowd.memory(held), (more - goroutines) / float64(n)}, crowd.checkAlive()
}

// errGone says that a connection was closed under its streams.
var errGone = errors.New("the connection was closed")

// accepted tells what is wrong with an answer to extended CONNECT.
func accepted(status int) error {
	if status == http.StatusOK {
		return nil
	}
	return statusError(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

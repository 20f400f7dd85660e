package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Read buffers of clients.
const (
	smallBuffer = 2 << 10
	bulkBuffer  = 256 << 10
)

// What the measurements consist of, apart from what flags set.
const (
	idleEchoes    = 2
	idleSize      = 1 << 10
	largeSize     = 64 << 10
	smallSize     = 64
	echoTunnels   = 50
	warmUpEchoes  = 20
	connectors    = 4
	latencyRate   = 1000 // messages per second over all tunnels
	latencyCount  = 100  // tunnels
	latencyWarmUp = 500  // messages
	refusable     = 60   // clients of which some are refused
	// maxTunnels is what a proxy can hold that may have 20,000 descriptors and
	// needs two for each.
	maxTunnels = 9500
	// maxClients is what the load generator and the backends can, which need one.
	maxClients = 18_000
	// teardown is how long a proxy gets to release closed tunnels.
	teardown = 300 * time.Millisecond
)

// subject is what one measurement looks at: a fresh proxy, at one of its ports.
type subject struct {
	*proxy
	target
	scale
	// turn is held by whoever measures. A measurement gives it away while it
	// only waits, so that others can go on.
	turn *sync.Mutex
}

// rest waits until t and lets others measure meanwhile.
func (s subject) rest(ctx context.Context, t time.Time) error {
	s.turn.Unlock()
	defer s.turn.Lock()
	return sleep(ctx, time.Until(t))
}

// measureEcho returns CPU microseconds per round trip of a small message, all
// tunnels sending as soon as they get their answer.
func measureEcho(ctx context.Context, s subject) ([]float64, error) {
	clients, err := s.openTunnels(ctx, echoTunnels, echoPath, smallBuffer)
	defer closeAll(clients)
	if err != nil {
		return nil, err
	}
	m := newMessage(smallSize)
	if _, err := echoAll(clients, m, warmUpEchoes, time.Now().Add(s.echoTime)); err != nil {
		return nil, err
	}
	var done int
	used, err := s.cpuDuring(func() (err error) {
		done, err = echoAll(clients, m, s.echoes/echoTunnels, time.Now().Add(s.echoTime))
		return err
	})
	return []float64{microseconds(used) / float64(done)}, err
}

// echoAll makes up to n round trips on each of the clients at once, none later
// than end, and returns how many it made.
func echoAll(clients []*client, m message, n int, end time.Time) (int, error) {
	counts := make([]int, len(clients))
	err := parallel(len(clients), func(i int) error {
		for counts[i] < n && time.Now().Before(end) {
			if err := clients[i].echo(m); err != nil {
				return err
			}
			counts[i]++
		}
		return nil
	})
	var sum int
	for _, count := range counts {
		sum += count
	}
	return sum, err
}

// measureConnect returns CPU microseconds per tunnel that is opened, carries
// one echo and is closed.
func measureConnect(ctx context.Context, s subject) ([]float64, error) {
	m := newMessage(smallSize)
	each := s.connects / connectors
	used, err := s.cpuDuring(func() error {
		err := parallel(connectors, func(int) error {
			for range each {
				if err := s.connectOnce(ctx, m); err != nil {
					return err
				}
			}
			return nil
		})
		time.Sleep(teardown)
		return err
	})
	return []float64{microseconds(used) / float64(each*connectors)}, err
}

// measureRefused returns how many clients, which stay, get no tunnel while one of the
// upstreams refuses all handshakes.
func measureRefused(ctx context.Context, s subject) ([]float64, error) {
	refused := 0.0
	var clients []*client
	defer func() { closeAll(clients) }()
	for range refusable {
		c, err := s.dial(ctx, busyPath, smallBuffer)
		if _, ok := errors.AsType[statusError](err); ok {
			refused++
			continue
		}
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	return []float64{refused}, nil
}

func (s subject) connectOnce(ctx context.Context, m message) error {
	c, err := s.dial(ctx, echoPath, smallBuffer)
	if err != nil {
		return err
	}
	if err := c.echo(m); err != nil {
		closeQuietly(c.conn)
		return err
	}
	return c.close()
}

// cpuDuring returns the CPU time the proxy uses while work runs.
func (s subject) cpuDuring(work func() error) (time.Duration, error) {
	before, err := s.cpu()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := s.cpu()
	return after - before, err
}

// openTunnels opens n tunnels to path.
func (s subject) openTunnels(ctx context.Context, n int, path string, buffer int) ([]*client, error) {
	return openMany(n, func() (*client, error) { return s.dial(ctx, path, buffer) })
}

// openMany calls open n times, a few at once, and returns the clients that it
// got even if some failed.
func openMany(n int, open func() (*client, error)) ([]*client, error) {
	var mu sync.Mutex // guards clients and left
	var clients []*client
	left := n
	err := parallel(connectors, func(int) error {
		for {
			mu.Lock()
			left--
			enough := left < 0
			mu.Unlock()
			if enough {
				return nil
			}
			c, err := open()
			if err != nil {
				return err
			}
			mu.Lock()
			clients = append(clients, c)
			mu.Unlock()
		}
	})
	return slices.Clip(clients), err
}

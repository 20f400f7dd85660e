package main

import (
	"context"
	"fmt"
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
	idleSize      = 1024
	smallSize     = 64
	echoTunnels   = 50
	warmUpEchoes  = 20
	connectors    = 4
	latencyRate   = 1000 // messages per second over all tunnels
	latencyCount  = 100  // tunnels
	latencyWarmUp = 500  // messages
	// teardown is how long a proxy gets to release closed tunnels.
	teardown = 300 * time.Millisecond
)

// scale says how much load the measurements put on.
type scale struct {
	tunnels     int           // idle tunnels
	settle      time.Duration // between the last connect and reading memory
	echoes      int           // round trips of the CPU measurement, at most
	echoTime    time.Duration // its duration, at most
	bulkBytes   int64
	bulkTunnels int
	connects    int
	latencyTime time.Duration
}

// subject is what one measurement looks at: a fresh proxy, at one of its ports.
type subject struct {
	*proxy
	target
	scale
}

// measureIdle opens tunnels that fall silent after two echoes and returns, per
// tunnel, memory in KiB, the same for the last two thirds of them alone, and
// descriptors.
func measureIdle(ctx context.Context, s subject) ([]float64, error) {
	time.Sleep(teardown)
	empty, err := s.usage()
	if err != nil {
		return nil, err
	}
	var clients []*client
	defer func() { closeAll(clients) }()

	third, few, err := s.growIdle(ctx, &clients, s.tunnels/3)
	if err != nil {
		return nil, err
	}
	full, all, err := s.growIdle(ctx, &clients, s.tunnels)
	if err != nil {
		return nil, err
	}
	return []float64{
		float64(full.pssKiB-empty.pssKiB) / float64(all),
		float64(full.pssKiB-third.pssKiB) / float64(all-few),
		float64(full.fds-empty.fds) / float64(all),
	}, checkAlive(clients)
}

// growIdle opens idle tunnels until there are n, waits and returns what the
// proxy holds then.
func (s subject) growIdle(ctx context.Context, clients *[]*client, n int) (usage, int, error) {
	more, err := openMany(n-len(*clients), func() (*client, error) { return s.openIdle(ctx) })
	*clients = append(*clients, more...)
	if err != nil {
		return usage{}, 0, err
	}
	if err := sleep(ctx, s.settle); err != nil {
		return usage{}, 0, err
	}
	held, err := s.usage()
	return held, len(*clients), err
}

// openIdle opens one tunnel and has its echoes done.
func (s subject) openIdle(ctx context.Context) (*client, error) {
	c, err := s.dial(ctx, echoPath, smallBuffer)
	if err != nil {
		return nil, err
	}
	m := newMessage(idleSize)
	for range idleEchoes {
		if err := c.echo(m); err != nil {
			closeQuietly(c.conn)
			return nil, err
		}
	}
	c.buf = nil
	return c, nil
}

// checkAlive makes sure that what was measured were working tunnels.
func checkAlive(clients []*client) error {
	for i := 0; i < len(clients); i += 50 {
		if err := clients[i].echo(newMessage(smallSize)); err != nil {
			return fmt.Errorf("idle tunnel %d is dead: %w", i, err)
		}
	}
	return nil
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

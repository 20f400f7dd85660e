package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// idleLoad is how one measurement of idle tunnels goes.
type idleLoad struct {
	sizes      []int         // numbers of tunnels, ascending
	longSettle time.Duration // until the first size is read again; 0 for not again
	watch      time.Duration // how long the CPU use of the last size is watched; 0 for not at all
}

// rows returns the rows that measureIdle has values for.
func (l idleLoad) rows() []row {
	first, last := formatCount(l.sizes[0]), formatCount(l.sizes[len(l.sizes)-1])
	rows := []row{{"memory per idle tunnel at " + first, "KiB"}}
	if l.longSettle > 0 {
		name := fmt.Sprintf("memory per idle tunnel at %s after %.3g s", first, l.longSettle.Seconds())
		rows = append(rows, row{name, "KiB"})
	}
	for i, size := range l.sizes[1:] {
		name := fmt.Sprintf("memory per further idle tunnel, %s to %s", formatCount(l.sizes[i]), formatCount(size))
		rows = append(rows, row{name, "KiB"})
	}
	rows = append(rows, row{"descriptors per idle tunnel", "fds"})
	if l.watch > 0 {
		rows = append(rows, row{"CPU of " + last + " idle tunnels", "% of a core"})
	}
	return rows
}

// capacityError says that a proxy serves, but not as many tunnels as asked for.
type capacityError struct {
	held, wanted int
	err          error
}

func (e *capacityError) Error() string {
	return fmt.Sprintf("held %s of %s idle tunnels: %v", formatCount(e.held), formatCount(e.wanted), e.err)
}

func (e *capacityError) Unwrap() error { return e.err }

// measureIdle opens tunnels that fall silent after two echoes and returns the
// values of l's rows. For a proxy that holds the first size but not the others
// they come with NaN for these, and with a capacityError.
func measureIdle(ctx context.Context, s subject, l idleLoad) ([]float64, error) {
	crowd, err := newCrowd(s)
	if err != nil {
		return nil, err
	}
	defer crowd.leave()
	if err := crowd.growTo(ctx, l.sizes[0]); err != nil {
		return nil, err
	}
	first, err := crowd.read(ctx)
	if err != nil {
		return nil, err
	}
	values := []float64{crowd.memory(first)}
	if l.longSettle > 0 {
		held, err := crowd.readLater(ctx, l.longSettle)
		if err != nil {
			return nil, err
		}
		values = append(values, crowd.memory(held))
	}
	further, err := crowd.growFurther(ctx, l.sizes, first)
	values = append(values, further...)
	values = append(values, float64(first.fds-crowd.empty.fds)/float64(l.sizes[0]))
	if l.watch > 0 {
		cost := math.NaN()
		if err == nil {
			cost, err = crowd.watchCPU(ctx, l.watch)
		}
		values = append(values, cost)
	}
	if err != nil {
		return values, err
	}
	return values, crowd.checkAlive()
}

// measureAfterMessages returns memory in KiB per idle tunnel that has carried
// a large message each way before it fell silent.
func measureAfterMessages(ctx context.Context, s subject, n int) ([]float64, error) {
	crowd, err := newCrowd(s)
	if err != nil {
		return nil, err
	}
	defer crowd.leave()
	if err := crowd.growTo(ctx, n); err != nil {
		return nil, err
	}
	if err := crowd.echo(newMessage(largeSize)); err != nil {
		return nil, err
	}
	held, err := crowd.read(ctx)
	if err != nil {
		return nil, err
	}
	return []float64{crowd.memory(held)}, crowd.checkAlive()
}

// measureGoroutines returns goroutines per idle tunnel, NaN for other peers
// than Caddy. It looks at nothing else because the look itself takes memory.
func measureGoroutines(ctx context.Context, s subject, n int) ([]float64, error) {
	if s.admin == "" {
		return []float64{math.NaN()}, nil
	}
	crowd, err := newCrowd(s)
	if err != nil {
		return nil, err
	}
	defer crowd.leave()
	before, err := s.admin.goroutines(ctx)
	if err != nil {
		return nil, err
	}
	if err := crowd.growTo(ctx, n); err != nil {
		return nil, err
	}
	if err := sleep(ctx, time.Until(crowd.silent.Add(crowd.settle))); err != nil {
		return nil, err
	}
	after, err := s.admin.goroutines(ctx)
	if err != nil {
		return nil, err
	}
	return []float64{float64(after-before) / float64(n)}, crowd.checkAlive()
}

// crowd is a growing number of idle tunnels through one proxy.
type crowd struct {
	subject
	clients []*client
	empty   usage     // what the proxy held before there were any
	silent  time.Time // since when nothing happens on them
}

func newCrowd(s subject) (*crowd, error) {
	time.Sleep(teardown) // of the tunnels that found out whether it serves
	empty, err := s.usage()
	return &crowd{subject: s, empty: empty}, err
}

func (c *crowd) leave() { closeAll(c.clients) }

// growTo opens tunnels until there are n.
func (c *crowd) growTo(ctx context.Context, n int) error {
	m := newMessage(idleSize)
	more, err := openMany(n-len(c.clients), func() (*client, error) { return c.openIdle(ctx, m) })
	c.clients = append(c.clients, more...)
	c.silent = time.Now()
	return err
}

// openIdle opens one tunnel and has its echoes done.
func (c *crowd) openIdle(ctx context.Context, m message) (*client, error) {
	one, err := c.dial(ctx, echoPath, smallBuffer)
	if err != nil {
		return nil, err
	}
	for range idleEchoes {
		if err := one.echo(m); err != nil {
			closeQuietly(one.conn)
			return nil, err
		}
	}
	one.buf = nil
	return one, nil
}

// echo passes m through every tunnel, a few at once.
func (c *crowd) echo(m message) error {
	err := parallel(connectors, func(first int) error {
		for i := first; i < len(c.clients); i += connectors {
			if err := c.clients[i].echo(m); err != nil {
				return fmt.Errorf("tunnel %d: %w", i, err)
			}
			c.clients[i].buf = nil // they would be hundreds of megabytes
		}
		return nil
	})
	c.silent = time.Now()
	return err
}

// read waits for the proxy to settle and returns what it holds then.
func (c *crowd) read(ctx context.Context) (usage, error) {
	if err := sleep(ctx, time.Until(c.silent.Add(c.settle))); err != nil {
		return usage{}, err
	}
	return c.usage()
}

// readLater is read after a wait in which others measure.
func (c *crowd) readLater(ctx context.Context, wait time.Duration) (usage, error) {
	if err := c.rest(ctx, c.silent.Add(wait)); err != nil {
		return usage{}, err
	}
	return c.usage()
}

// memory returns KiB per tunnel.
func (c *crowd) memory(held usage) float64 {
	return float64(held.pssKiB-c.empty.pssKiB) / float64(len(c.clients))
}

// growFurther grows to all sizes but the first, which held before, and returns
// the memory in KiB that each further tunnel takes, NaN for sizes that could
// not be reached.
func (c *crowd) growFurther(ctx context.Context, sizes []int, before usage) ([]float64, error) {
	further := slices.Repeat([]float64{math.NaN()}, len(sizes)-1)
	for i, size := range sizes[1:] {
		if err := c.growTo(ctx, size); err != nil {
			return further, &capacityError{held: len(c.clients), wanted: size, err: err}
		}
		held, err := c.read(ctx)
		if err != nil {
			return further, err
		}
		further[i] = float64(held.pssKiB-before.pssKiB) / float64(size-sizes[i])
		before = held
	}
	return further, nil
}

// watchCPU returns the CPU use of silent tunnels in percent of one core. Others measure
// meanwhile.
func (c *crowd) watchCPU(ctx context.Context, d time.Duration) (float64, error) {
	began := time.Now()
	used, err := c.cpuDuring(func() error { return c.rest(ctx, began.Add(d)) })
	return 100 * used.Seconds() / time.Since(began).Seconds(), err
}

// checkAlive makes sure that what was measured were working tunnels.
func (c *crowd) checkAlive() error { return checkAlive(c.clients) }

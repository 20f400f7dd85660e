package main

import (
	"bufio"
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// How clients of a storm behave: they come back as those of Socket.IO do, and wait for
// an answer as long as the queue that is recommended lasts.
const (
	stormPatience   = time.Minute
	firstBackOff    = time.Second
	longestBackOff  = 5 * time.Second
	backOffVariance = 0.5
)

// stormOutcome is what became of a storm.
type stormOutcome struct {
	waits   []time.Duration // of those that got a tunnel, ascending
	failed  int             // handshakes
	failure error           // the first one
}

// besieged are clients that all want a tunnel at once.
type besieged struct {
	addrs []string // of the proxies
	end   time.Time

	mu      sync.Mutex // guards what follows
	clients []*client
	outcome stormOutcome
}

// storm has n clients come at once, spread over the addresses, and returns when all
// have a tunnel or limit has passed.
func storm(ctx context.Context, addrs []string, n int, limit time.Duration) (stormOutcome, error) {
	begun := time.Now()
	b := &besieged{addrs: addrs, end: begun.Add(limit)}
	defer func() { closeAll(b.clients) }()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { b.insist(ctx, i, begun) })
	}
	all.Wait()
	slices.Sort(b.outcome.waits)
	if ctx.Err() != nil {
		return b.outcome, ctx.Err()
	}
	return b.outcome, checkAlive(b.clients)
}

// insist is one client, which tries until it has a tunnel.
func (b *besieged) insist(ctx context.Context, i int, begun time.Time) {
	for backOff := firstBackOff; ; backOff = min(2*backOff, longestBackOff) {
		c, err := b.open(ctx, i)
		if time.Now().After(b.end) || ctx.Err() != nil {
			if err == nil {
				closeQuietly(c.conn)
			}
			return
		}
		b.note(c, err, time.Since(begun))
		if err == nil {
			return
		}
		factor := 1 + backOffVariance*(2*rand.Float64()-1) //nolint:gosec // spreads clients
		pause := min(time.Duration(factor*float64(backOff)), longestBackOff, time.Until(b.end))
		if sleep(ctx, pause) != nil {
			return
		}
	}
}

func (b *besieged) note(c *client, err error, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.clients = append(b.clients, c)
		b.outcome.waits = append(b.outcome.waits, wait)
		return
	}
	b.outcome.failed++
	if b.outcome.failure == nil {
		b.outcome.failure = err
	}
}

// open tries once, from an address of the client's own.
func (b *besieged) open(ctx context.Context, i int) (*client, error) {
	deadline := time.Now().Add(stormPatience)
	if b.end.Before(deadline) {
		deadline = b.end
	}
	addr := b.addrs[i%len(b.addrs)]
	dialer := net.Dialer{Deadline: deadline, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(i>>8), byte(i))}}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(deadline) // fails only on a closed connection
	c := &client{conn: conn, r: bufio.NewReaderSize(conn, smallBuffer)}
	if err := c.upgrade(addr, stormPath); err != nil {
		closeQuietly(conn)
		return nil, err
	}
	return c, nil
}

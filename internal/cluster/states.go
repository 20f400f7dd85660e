// Package cluster shares what operators say of upstreams with other instances, by way of
// a storage that they have in common. It knows how words meet whose writers do not see each
// other, whose clocks differ, and whose storage is away, slow or damaged. It knows neither
// Caddy nor log lines: where words count, who is told of them and where they are stored
// is given to it.
//
// It has one lock, that of States. Nothing of others is called under it.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Table is where states count.
type Table interface {
	// SetStates replaces what counts, unless it has been given a higher number before:
	// calls may overtake each other. What it returns does what follows for tunnels.
	SetStates(number uint64, states map[string]upstream.State) (follow func())
	// Uses reports whether an address is in use, or was lately.
	Uses(address string) bool
}

// States holds what operators have said about upstreams, makes it count in this
// process, and shares it with others by way of the storages of configurations.
type States struct {
	table    Table
	observer Observer // without a configuration

	storages outside.Callee
	// first is closed when what was stored before the process started counts,
	// or has been waited for.
	first     chan struct{}
	firstOnce sync.Once
	patience  time.Duration // of those who wait for that

	mu    sync.Mutex // guards what follows, and a part of each Sync
	known words
	// applied is what counts, and number how often that has changed.
	applied words
	number  uint64
	// found is set when the states of a storage are known.
	found bool
	// syncs have the storages of the running configurations, oldest first.
	// There are two for a moment in a reload.
	syncs []*Sync
}

// New returns states that have no storage yet. The observer is told what happens while
// no configuration has one. Whoever waits for what is stored does so no longer than
// patience.
func New(t Table, o Observer, patience time.Duration) *States {
	return &States{
		table:    t,
		observer: o,
		storages: outside.Callee{
			Name:    "the storage",
			MaxLost: maxCalls,
			TooMany: errors.New("too many calls have never been answered; restart Caddy when the storage works again"),
		},
		first:    make(chan struct{}),
		patience: patience,
		known:    make(words),
	}
}

// Set takes note of what an operator says, which counts from now on, and stores
// it. Its error says why it could not be stored within storageTimeout; that is
// tried again until it works.
func (c *States) Set(ctx context.Context, address string, s upstream.State) error {
	var newest *Sync
	var next *round
	c.change(SetHere, func(now time.Time) {
		s.At, s.Expires, s.Named = s.At.UTC().Round(0), s.Expires.UTC().Round(0), time.Time{}
		// Another instance's clock may be ahead.
		if was, said := c.known[address]; said && !s.At.After(was.At) && !isAhead(was.At, now) {
			s.At = was.At.Add(time.Millisecond)
		}
		c.known[address] = s
		if n := len(c.syncs); n > 0 {
			newest = c.syncs[n-1]
			next = newest.next
		}
	})
	if newest == nil {
		return errors.New("no loaded configuration has a websocket_proxy, and so a storage; it is stored when one has")
	}
	if err := newest.await(ctx, next, IsLocal(address)); err != nil {
		return err
	}
	c.mu.Lock()
	now := c.known[address]
	c.mu.Unlock()
	if !now.At.Equal(s.At) {
		return fmt.Errorf("%s has set it to %s meanwhile", printable.Text(now.By), printable.Text(now.State))
	}
	return nil
}

// learn takes over what a round has found out, given what was known when it
// began.
func (c *States) learn(before, learned words) {
	c.change(SetElsewhere, func(time.Time) {
		for address, s := range c.known {
			was, said := before[address]
			newest, stored := learned[address]
			unasked := !said || !was.At.Equal(s.At)
			if unasked && (!stored || s.At.After(newest.At)) {
				learned[address] = s
			}
		}
		c.known = learned
	})
}

// tick lets pass what time ends.
func (c *States) tick() {
	// The table is not asked under the lock. Whoever comes to use an address meanwhile is
	// as late as who comes a moment after.
	unused := c.aged(time.Now())
	for address := range unused {
		if c.table.Uses(address) {
			delete(unused, address)
		}
	}
	c.change(Expired, func(time.Time) {
		for address, was := range unused {
			if c.known[address].Equal(was) {
				delete(c.known, address)
			}
		}
	})
}

// aged returns the states that are to be dropped unless their addresses are in use.
func (c *States) aged(now time.Time) words {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(words)
	for address, s := range c.known {
		if isAged(s, now) {
			all[address] = s
		}
	}
	return all
}

// change changes what is known, and has follow what follows. from says where it
// comes from.
func (c *States) change(from Cause, apply func(now time.Time)) {
	c.mu.Lock()
	now := time.Now()
	apply(now)
	was, is := c.applied, c.known.holding(now)
	if is.equal(was) {
		c.mu.Unlock()
		return
	}
	c.applied = is
	c.number++
	number, changes, observer := c.number, c.changesLocked(from, was), c.observerLocked()
	c.mu.Unlock()
	follow := c.table.SetStates(number, is)
	for _, change := range changes {
		observer.Changed(change)
	}
	follow()
}

// Await waits until what was stored before the process started counts. Once
// that is so, it costs nothing. Handshakes need it because apps start in any
// order: the server may listen before the storage is looked at.
func (c *States) Await(ctx context.Context) {
	select {
	case <-c.first:
		return
	default:
	}
	timer := time.NewTimer(c.patience)
	defer timer.Stop()
	select {
	case <-c.first:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// AwaitFirst is Await for the first configuration, after which nobody waits any
// more.
func (c *States) AwaitFirst(ctx context.Context) {
	c.Await(ctx)
	c.stopAwaiting()
}

func (c *States) stopAwaiting() {
	c.firstOnce.Do(func() { close(c.first) })
}

// Attach begins to look at the storage of a configuration that runs from now
// on.
func (c *States) Attach(config Config) *Sync {
	s := newSync(c, config)
	c.mu.Lock()
	c.syncs = append(c.syncs, s)
	c.mu.Unlock()
	s.loop.Start()
	return s
}

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
// process, and shares it with others by way of sharers.
type States struct {
	table    Table
	observer Observer // without a configuration

	storages outside.Callee
	// first is closed when what was stored before the process started counts,
	// or has been waited for.
	first     chan struct{}
	firstOnce sync.Once
	patience  time.Duration // of those who wait for that

	mu    sync.Mutex // guards what follows; nothing else is called under it
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

// New returns one that is told what there is to tell by the observers of
// configurations, or by this one if there is none. Whoever waits for what is stored
// does so no longer than patience.
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
func (k *States) Set(ctx context.Context, address string, s upstream.State) error {
	var newest *Sync
	var next *exchange
	k.change(SetHere, func(now time.Time) {
		s.At, s.Expires, s.Named = s.At.UTC().Round(0), s.Expires.UTC().Round(0), time.Time{}
		// Another instance's clock may be ahead.
		if was, said := k.known[address]; said && !s.At.After(was.At) && !isAhead(was.At, now) {
			s.At = was.At.Add(time.Millisecond)
		}
		k.known[address] = s
		if n := len(k.syncs); n > 0 {
			newest = k.syncs[n-1]
			next = newest.next
		}
	})
	if newest == nil {
		return errors.New("no loaded configuration has a websocket_proxy, and so a storage; it is stored when one has")
	}
	if err := newest.await(ctx, next, IsLocal(address)); err != nil {
		return err
	}
	k.mu.Lock()
	now := k.known[address]
	k.mu.Unlock()
	if !now.At.Equal(s.At) {
		return fmt.Errorf("%s has set it to %s meanwhile", printable.Text(now.By), printable.Text(now.State))
	}
	return nil
}

// learn takes over what a call has found out, given what was known when it
// began.
func (k *States) learn(before, learned words) {
	k.change(SetElsewhere, func(time.Time) {
		for address, s := range k.known {
			was, said := before[address]
			newest, stored := learned[address]
			unasked := !said || !was.At.Equal(s.At)
			if unasked && (!stored || s.At.After(newest.At)) {
				learned[address] = s
			}
		}
		k.known = learned
	})
}

// tick lets pass what time ends.
func (k *States) tick() {
	// The table is not asked under the lock: whoever uses an address from now on comes
	// as late as a moment after that.
	unused := k.aged(time.Now())
	for address := range unused {
		if k.table.Uses(address) {
			delete(unused, address)
		}
	}
	k.change(Expired, func(time.Time) {
		for address, was := range unused {
			if k.known[address].Equal(was) {
				delete(k.known, address)
			}
		}
	})
}

// aged returns the states that are to be dropped unless their addresses are in use.
func (k *States) aged(now time.Time) words {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make(words)
	for address, s := range k.known {
		if isAged(s, now) {
			all[address] = s
		}
	}
	return all
}

// change changes what is known, and has follow what follows. from says where it
// comes from.
func (k *States) change(from Cause, change func(now time.Time)) {
	k.mu.Lock()
	now := time.Now()
	change(now)
	was, is := k.applied, k.known.holding(now)
	if is.equal(was) {
		k.mu.Unlock()
		return
	}
	k.applied = is
	k.number++
	number, changes, observer := k.number, k.changesLocked(from, was), k.observerLocked()
	k.mu.Unlock()
	follow := k.table.SetStates(number, is)
	for _, c := range changes {
		observer.Changed(c)
	}
	follow()
}

// Await waits until what was stored before the process started counts. Once
// that is so, it costs nothing. Handshakes need it because apps start in any
// order: the server may listen before the storage is looked at.
func (k *States) Await(ctx context.Context) {
	select {
	case <-k.first:
		return
	default:
	}
	timer := time.NewTimer(k.patience)
	defer timer.Stop()
	select {
	case <-k.first:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// AwaitFirst is await for the first configuration, after which nobody waits any
// more.
func (k *States) AwaitFirst(ctx context.Context) {
	k.Await(ctx)
	k.stopAwaiting()
}

func (k *States) stopAwaiting() {
	k.firstOnce.Do(func() { close(k.first) })
}

// Attach begins to look at the storage of a configuration that runs from now
// on.
func (k *States) Attach(o Config) *Sync {
	s := newSync(k, o)
	k.mu.Lock()
	k.syncs = append(k.syncs, s)
	k.mu.Unlock()
	s.loop.Start()
	return s
}

package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// firstTimeout is how long, when the process starts, is waited for the states
// that are stored.
const firstTimeout = time.Second

// keeper holds what operators have said about upstreams, makes it count in this
// process, and shares it with others by way of sharers.
type keeper struct {
	table *hostTable
	// evict is told to empty an address, and ready which addresses get tunnels
	// again. They are called without a lock, so what they are told may be
	// outdated already.
	evict func(address string, period time.Duration)
	ready func(addresses []string)

	calls atomic.Int32 // to storages, under way
	// first is closed when what was stored before the process started counts,
	// or has been waited for.
	first     chan struct{}
	firstOnce sync.Once
	patience  time.Duration // of those who wait for that

	mu    sync.Mutex // guards what follows; the table's may be taken inside
	known operatorStates
	// applied is what counts, as the table has it.
	applied operatorStates
	// found is set when the states of a storage are known.
	found bool
	// sharers have the storages of the running configurations, oldest first.
	// There are two for a moment in a reload.
	sharers []*sharer
}

func newKeeper(t *hostTable, evict func(string, time.Duration), ready func([]string)) *keeper {
	return &keeper{
		table:    t,
		evict:    evict,
		ready:    ready,
		first:    make(chan struct{}),
		patience: firstTimeout,
		known:    make(operatorStates),
	}
}

var operators = newKeeper(hosts, evictions.from, becameReady)

// set takes note of what an operator says, which counts from now on, and stores
// it. Its error says why it could not be stored within storageTimeout; that is
// tried again until it works.
func (k *keeper) set(ctx context.Context, address string, s upstream.State) error {
	var newest *sharer
	var next *call
	k.change(setHere, func(now time.Time) {
		s.At, s.Expires, s.Named = s.At.UTC().Round(0), s.Expires.UTC().Round(0), time.Time{}
		// Another instance's clock may be ahead.
		if was, said := k.known[address]; said && !s.At.After(was.At) && !isAhead(was.At, now) {
			s.At = was.At.Add(time.Millisecond)
		}
		k.known[address] = s
		if n := len(k.sharers); n > 0 {
			newest = k.sharers[n-1]
			next = newest.next
		}
	})
	if newest == nil {
		return errors.New("no loaded configuration has a websocket_proxy, and so a storage; it is stored when one has")
	}
	if err := newest.await(ctx, next, isLocal(address)); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.known[address]; !now.At.Equal(s.At) {
		return fmt.Errorf("%s has set it to %s meanwhile", printable.Text(now.By), printable.Text(now.State))
	}
	return nil
}

// learn takes over what a call has found out, given what was known when it
// began.
func (k *keeper) learn(before, learned operatorStates) {
	k.change(setElsewhere, func(time.Time) {
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
func (k *keeper) tick() {
	k.change("", func(now time.Time) { k.known.drop(now, k.table.uses) })
}

// change changes what is known, and has follow what follows. from says where it
// comes from.
func (k *keeper) change(from string, change func(now time.Time)) {
	k.mu.Lock()
	now := time.Now()
	change(now)
	was, is := k.applied, k.known.holding(now)
	if is.equal(was) {
		k.mu.Unlock()
		return
	}
	evict, ready := k.table.setStates(is)
	k.applied = is
	lines, log := k.linesLocked(from, was), k.logLocked()
	k.mu.Unlock()
	for _, line := range lines {
		log.Info("upstream state changed", line...)
	}
	for _, address := range evict {
		k.evict(address, is[address].EvictPeriod())
	}
	if len(ready) > 0 {
		k.ready(ready)
	}
}

// await waits until what was stored before the process started counts. Once
// that is so, it costs nothing. Handshakes need it because apps start in any
// order: the server may listen before the storage is looked at.
func (k *keeper) await(ctx context.Context) {
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

// awaitFirst is await for the first configuration, after which nobody waits any
// more.
func (k *keeper) awaitFirst() {
	k.await(context.Background())
	k.stopAwaiting()
}

func (k *keeper) stopAwaiting() {
	k.firstOnce.Do(func() { close(k.first) })
}

// attach begins to look at the storage of a configuration that runs from now
// on.
func (k *keeper) attach(st storage, log *zap.Logger) *sharer {
	s := newSharer(k, st, log)
	k.mu.Lock()
	k.sharers = append(k.sharers, s)
	k.mu.Unlock()
	go s.run()
	return s
}

// detach ends that, and waits for it.
func (k *keeper) detach(s *sharer) {
	k.mu.Lock()
	k.sharers = slices.DeleteFunc(k.sharers, func(other *sharer) bool { return other == s })
	k.mu.Unlock()
	close(s.stop)
	<-s.ended
}

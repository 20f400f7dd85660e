package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
)

const (
	// pollInterval and at most pollJitter lie between two looks at the storage,
	// so that what is set at one instance counts at all within 5 seconds.
	pollInterval = 2 * time.Second
	pollJitter   = time.Second
	// storageTimeout bounds what is waited for the storage.
	storageTimeout = 3 * time.Second
	// detachTimeout is how long a round that is under way when its configuration
	// is unloaded may still take.
	detachTimeout = time.Second
	// maxCalls bounds the calls that storages of earlier configurations have
	// never answered, and one of the newest.
	maxCalls = 4
)

var errUnloaded = errors.New("the configuration was unloaded meanwhile; the next one stores it")

// Config is what a configuration has for the states.
type Config struct {
	Storage Storage
	// Instance returns what tells this instance from others that share the storage: its
	// id, and the host's name. It is asked again each time, as the id may change.
	Instance func(context.Context) (id, host string, err error)
	Observer Observer
}

// Sync has the storage of one running configuration, and the loop that looks at it.
type Sync struct {
	config Config
	states *States
	loop   *outside.Loop[exchanged]

	// Both are guarded by the states' mu.
	next    *round    // that will begin next
	overdue time.Time // when a round was found not to end in time

	// What follows is the loop's, and after its end Detach's: the round that is under
	// way; rounds fail, or do not end in time; the addresses of which times were ignored
	// last; and this instance's own document has been read.
	current  *round
	troubled bool
	ahead    map[string]bool
	looked   bool
}

func newSync(states *States, config Config) *Sync {
	s := &Sync{config: config, states: states, next: newRound()}
	s.loop = outside.NewLoop(outside.Caller[exchanged]{
		Tick: func() time.Duration {
			states.tick()
			return pollInterval + rand.N(pollJitter) //nolint:gosec // it only keeps instances apart
		},
		Begin: s.begin,
		Settle: func(c *outside.Call[exchanged]) time.Duration {
			s.settle(c)
			return 0
		},
		Overdue: s.delay,
	})
	return s
}

// begin begins a round.
func (s *Sync) begin() *outside.Call[exchanged] {
	s.states.mu.Lock()
	s.current, s.next = s.next, newRound()
	known := maps.Clone(s.states.known)
	s.states.mu.Unlock()
	s.current.known = known
	looked := s.looked
	return outside.Start(context.Background(), storageTimeout, &s.states.storages,
		func(ctx context.Context) (exchanged, error) {
			return s.config.exchange(ctx, known, looked, s.states.table.Uses)
		})
}

// settle takes over what a round has brought.
func (s *Sync) settle(c *outside.Call[exchanged]) {
	s.setOverdue(time.Time{})
	r, inTime, err := c.Result()
	if err != nil {
		r.errs = exchangeErrors{err, err}
	} else {
		s.looked = r.looked
		s.states.learn(s.current.known, r.learned)
		s.warnOfTimes(r.ahead)
	}
	err = errors.Join(r.errs.shared, r.errs.local)
	s.config.Observer.Exchanged(err)
	switch {
	case err != nil:
		s.complain(err)
	case inTime && s.troubled:
		s.troubled = false
		s.config.Observer.Works()
	}
	if r.errs.shared == nil || r.errs.local == nil {
		s.states.foundStates()
	}
	s.states.stopAwaiting()
	s.current.settle(r.errs)
}

// delay notes that a round has not ended in time.
func (s *Sync) delay(*outside.Call[exchanged]) {
	s.setOverdue(time.Now())
	err := fmt.Errorf("no answer within %v", storageTimeout)
	s.config.Observer.Exchanged(err)
	s.complain(err)
	s.states.stopAwaiting()
}

func (s *Sync) setOverdue(t time.Time) {
	s.states.mu.Lock()
	defer s.states.mu.Unlock()
	s.overdue = t
}

// complain tells when the storage has begun to fail.
func (s *Sync) complain(err error) {
	if s.troubled {
		return
	}
	s.troubled = true
	s.config.Observer.Fails(err)
}

// warnOfTimes tells when other addresses than before have times that are ignored.
func (s *Sync) warnOfTimes(ahead map[string]bool) {
	if maps.Equal(s.ahead, ahead) {
		return
	}
	s.ahead = ahead
	if len(ahead) > 0 {
		s.config.Observer.Ahead(slices.Collect(maps.Keys(ahead)))
	}
}

// Detach leaves the storage, for when the configuration is unloaded. A round that is
// under way gets some time, as an operator may wait for it.
func (s *Sync) Detach() {
	all := s.states
	all.mu.Lock()
	all.syncs = slices.DeleteFunc(all.syncs, func(other *Sync) bool { return other == s })
	all.mu.Unlock()
	c := s.loop.Stop()
	all.mu.Lock()
	next, isOverdue := s.next, !s.overdue.IsZero()
	all.mu.Unlock()
	unloaded := exchangeErrors{errUnloaded, errUnloaded}
	next.settle(unloaded)
	if c == nil {
		return
	}
	defer c.Abandon()
	if !isOverdue && outside.Join(detachTimeout, c) {
		s.settle(c)
		return
	}
	s.current.settle(unloaded)
}

// await waits until a round has stored what was set before it began, and returns
// why it has not.
func (s *Sync) await(ctx context.Context, r *round, local bool) error {
	s.states.mu.Lock()
	since := s.overdue
	s.states.mu.Unlock()
	s.loop.Wake()
	if !since.IsZero() {
		return fmt.Errorf("the storage has not answered since %s", since.Format(time.RFC3339))
	}
	timer := time.NewTimer(storageTimeout)
	defer timer.Stop()
	select {
	case <-r.settled:
	case <-timer.C:
		return fmt.Errorf("the storage has not answered within %v", storageTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
	if local {
		return r.errs.local
	}
	return r.errs.shared
}

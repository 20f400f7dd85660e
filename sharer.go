package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

const (
	// pollInterval and at most pollJitter lie between two looks at the storage,
	// so that what is set at one instance counts at all within 5 seconds.
	pollInterval = 2 * time.Second
	pollJitter   = time.Second
	// storageTimeout bounds what is waited for the storage.
	storageTimeout = 3 * time.Second
	// leaveTimeout is how long a call that is under way when its configuration
	// is unloaded may still take.
	leaveTimeout = time.Second
	// maxCalls bounds the calls that storages of earlier configurations have
	// never answered, and one for the newest.
	maxCalls = 4
)

var errUnloaded = errors.New("the configuration was unloaded meanwhile; the next one stores it")

// sharer has the storage of one running configuration, and the goroutine that
// looks at it. That goroutine never waits for it: a call is another goroutine's,
// one at a time.
type sharer struct {
	keeper  *keeper
	storage storage
	log     *zap.Logger
	wake    chan struct{} // has room for one
	stop    chan struct{}
	ended   chan struct{}

	// Both are guarded by the keeper's mu.
	next    *call     // that will begin next
	overdue time.Time // when a call was found not to come back in time

	// Both are run's: calls fail, or do not come back in time; and the addresses of
	// which times were ignored last.
	troubled bool
	ahead    map[string]bool
	// looked is call's: this instance's own document has been read.
	looked bool
}

func newSharer(k *keeper, st storage, log *zap.Logger) *sharer {
	return &sharer{
		keeper:  k,
		storage: st,
		log:     log,
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		ended:   make(chan struct{}),
		next:    newCall(),
	}
}

// run looks at the storage now and then, and when something has been set.
func (s *sharer) run() {
	defer close(s.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var current *call
	wanted := false
	for {
		var result <-chan exchanged
		var overdue <-chan time.Time
		if current != nil {
			result, overdue = current.result, current.timer.C
		}
		select {
		case <-s.stop:
			s.leave(current)
			return
		case <-timer.C:
			timer.Reset(pollInterval + rand.N(pollJitter)) //nolint:gosec // it only keeps instances apart
			s.keeper.tick()
			wanted = wanted || current == nil
		case <-s.wake:
			wanted = true
		case r := <-result:
			s.settle(current, r)
			current = nil
		case <-overdue:
			s.delay(current)
		}
		if wanted && current == nil {
			current, wanted = s.begin(), false
		}
	}
}

// begin begins a call. Whoever owns it waits for its result for a limited time
// only: a storage may ignore the context, and there is no way to end or to join
// a goroutine that it holds. As long as it does, none follows.
func (s *sharer) begin() *call {
	k := s.keeper
	k.mu.Lock()
	c := s.next
	s.next = newCall()
	c.known = maps.Clone(k.known)
	k.mu.Unlock()
	c.timer = time.NewTimer(storageTimeout)
	var ctx context.Context
	ctx, c.cancel = context.WithTimeout(context.Background(), storageTimeout)
	if k.calls.Add(1) > maxCalls {
		k.calls.Add(-1)
		err := errors.New("too many calls have never been answered; restart Caddy when the storage works again")
		c.result <- exchanged{errs: exchangeErrors{err, err}}
		return c
	}
	go s.call(ctx, c)
	return c
}

// settle takes over what a call has brought.
func (s *sharer) settle(c *call, r exchanged) {
	c.cancel()
	onTime := c.timer.Stop()
	s.setOverdue(time.Time{})
	if r.learned != nil {
		s.keeper.learn(c.known, r.learned)
		s.warnOfTimes(r.ahead)
	}
	err := errors.Join(r.errs.shared, r.errs.local)
	switch {
	case err != nil:
		s.complain(err)
	case onTime && s.troubled:
		s.troubled = false
		s.log.Info("the storage works again; states of upstreams are stored and shared")
	}
	if r.errs.shared == nil || r.errs.local == nil {
		s.keeper.foundStates()
	}
	s.keeper.stopAwaiting()
	c.errs = r.errs
	close(c.settled)
}

// delay notes that a call has not come back in time.
func (s *sharer) delay(c *call) {
	c.cancel()
	s.setOverdue(time.Now())
	s.complain(fmt.Errorf("no answer within %v", storageTimeout))
	s.keeper.stopAwaiting()
}

func (s *sharer) setOverdue(t time.Time) {
	s.keeper.mu.Lock()
	defer s.keeper.mu.Unlock()
	s.overdue = t
}

// complain writes a line when the storage has begun to fail.
func (s *sharer) complain(err error) {
	if s.troubled {
		return
	}
	s.troubled = true
	s.log.Warn("the storage of upstream states fails; the last known states hold, and are stored when it works again",
		failure(err))
}

// warnOfTimes writes a line when other addresses than before have times that are
// ignored.
func (s *sharer) warnOfTimes(ahead map[string]bool) {
	if maps.Equal(s.ahead, ahead) {
		return
	}
	s.ahead = ahead
	if len(ahead) == 0 {
		return
	}
	var list []string
	for address := range ahead {
		list = append(list, printable.Text(address))
	}
	slices.Sort(list)
	s.log.Warn("times in the storage of upstream states lie too far ahead and are ignored; "+
		"is a clock wrong here or at another instance?", zap.Strings("upstreams", list))
}

// leave ends the sharer. A call that is under way gets some time, as an
// operator may wait for it.
func (s *sharer) leave(current *call) {
	s.keeper.mu.Lock()
	next, isOverdue := s.next, !s.overdue.IsZero()
	s.keeper.mu.Unlock()
	next.settle(errUnloaded)
	if current == nil {
		return
	}
	defer current.cancel()
	defer current.timer.Stop()
	if !isOverdue {
		last := time.NewTimer(leaveTimeout)
		defer last.Stop()
		select {
		case r := <-current.result:
			s.settle(current, r)
			return
		case <-last.C:
		}
	}
	current.settle(errUnloaded)
}

// await waits until a call has stored what was set before it began, and returns
// why it has not.
func (s *sharer) await(ctx context.Context, c *call, local bool) error {
	s.keeper.mu.Lock()
	since := s.overdue
	s.keeper.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // it has been woken already
	}
	if !since.IsZero() {
		return fmt.Errorf("the storage has not answered since %s", since.Format(time.RFC3339))
	}
	timer := time.NewTimer(storageTimeout)
	defer timer.Stop()
	select {
	case <-c.settled:
	case <-timer.C:
		return fmt.Errorf("the storage has not answered within %v", storageTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
	if local {
		return c.errs.local
	}
	return c.errs.shared
}

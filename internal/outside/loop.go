package outside

import "time"

// Caller is what a loop calls for. Its functions are called by the loop's goroutine.
type Caller[T any] struct {
	// Tick is called now and then, also while a call is under way; if none is, one begins
	// then. It returns after what time it is called again.
	Tick func() time.Duration
	// Begin begins a call, or returns nil if there is nothing to call.
	Begin func() *Call[T]
	// Settle takes over what a call has brought, be it late. It returns after what time the
	// next tick is, or zero if that stays as it was.
	Settle func(*Call[T]) time.Duration
	// Overdue is told of a call that has not come back in time. It is waited for all the
	// same.
	Overdue func(*Call[T])
}

// Loop makes calls one at a time: now and then, and when it is woken. It never waits for
// one: a call that does not come back keeps only others from being made.
type Loop[T any] struct {
	caller Caller[T]

	wake    chan struct{} // has room for one
	stop    chan struct{}
	ended   chan struct{}
	current *Call[T] // run's; after that, Stop's
}

// NewLoop returns a loop that is still to be started.
func NewLoop[T any](c Caller[T]) *Loop[T] {
	return &Loop[T]{
		caller: c,
		wake:   make(chan struct{}, 1),
		stop:   make(chan struct{}),
		ended:  make(chan struct{}),
	}
}

// Start starts the loop, which ticks at once.
func (l *Loop[T]) Start() { go l.run() }

// Wake has a call begun: when the one that is under way has come back, or at once if that
// is abandoned.
func (l *Loop[T]) Wake() {
	select {
	case l.wake <- struct{}{}:
	default: // it has been woken already
	}
}

// Stop ends the loop, which takes no time, and returns the call that is still under way,
// or nil.
func (l *Loop[T]) Stop() *Call[T] {
	close(l.stop)
	<-l.ended
	return l.current
}

func (l *Loop[T]) run() {
	defer close(l.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	wanted, told := false, false
	for {
		var done, late <-chan struct{}
		if l.current != nil {
			done = l.current.Done()
			if !told {
				late = l.current.Late()
			}
		}
		select {
		case <-l.stop:
			return
		case <-timer.C:
			timer.Reset(l.caller.Tick())
			wanted = wanted || l.current == nil
		case <-l.wake:
			wanted = true
		case <-done:
			l.settle(timer)
		case <-late:
			told = true
			if l.current.IsLate() && !l.current.IsAbandoned() {
				l.caller.Overdue(l.current)
			}
		}
		if wanted && (l.current == nil || l.current.IsAbandoned()) {
			l.current, wanted, told = l.caller.Begin(), false, false
		}
	}
}

func (l *Loop[T]) settle(timer *time.Timer) {
	c := l.current
	l.current = nil
	if c.IsAbandoned() {
		return
	}
	if next := l.caller.Settle(c); next > 0 {
		timer.Reset(next)
	}
}

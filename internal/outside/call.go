// Package outside calls code that may never come back. Sources of upstreams and storages
// are other people's code, and may be servers elsewhere: calls may take long, panic, end
// their goroutine, or ignore their context, and there is no way to end or to join a
// goroutine that other code holds. So each call has a goroutine of its own, nobody waits
// for it longer than he wants to, and those that are lost are few.
//
// The package knows nothing of what is called. It has no locks.
package outside

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Callee is whose code is called.
type Callee struct {
	// Name is how errors call it.
	Name string
	// MaxLost bounds the calls that are under way although nobody waits for them any
	// more. TooMany is why others fail then.
	MaxLost int
	TooMany error

	lost atomic.Int32
}

// Lost is how many calls are.
func (c *Callee) Lost() int { return int(c.lost.Load()) }

// Call is one call, in a goroutine of its own.
type Call[T any] struct {
	ctx       context.Context // is over when the answer is late
	cancel    context.CancelFunc
	abandoned atomic.Bool
	done      chan struct{} // closed when what follows is set

	value  T
	err    error
	inTime bool
}

// Start begins a call of f. What f returns after the timeout, or when ctx is over, is
// late. If it panics or ends its goroutine, that is an error: the process has more to do.
func Start[T any](
	ctx context.Context, timeout time.Duration, callee *Callee, f func(context.Context) (T, error),
) *Call[T] {
	c := &Call[T]{done: make(chan struct{})}
	c.ctx, c.cancel = context.WithTimeout(ctx, timeout)
	if callee.Lost() >= callee.MaxLost {
		defer c.cancel()
		defer close(c.done)
		c.err, c.inTime = callee.TooMany, true
		return c
	}
	go c.run(callee, f)
	return c
}

func (c *Call[T]) run(callee *Callee, f func(context.Context) (T, error)) {
	defer c.cancel()
	defer close(c.done)
	stop := context.AfterFunc(c.ctx, func() { callee.lost.Add(1) })
	defer func() {
		c.inTime = c.ctx.Err() == nil
		if !stop() {
			callee.lost.Add(-1)
		}
	}()
	c.err = fmt.Errorf("%s has ended the goroutine", callee.Name) // unless it returns
	defer func() {
		if p := recover(); p != nil {
			c.err = fmt.Errorf("%s has panicked: %v", callee.Name, p)
		}
	}()
	c.value, c.err = f(c.ctx)
}

// Done is closed when the call has come back.
func (c *Call[T]) Done() <-chan struct{} { return c.done }

// Late is closed when the call is late. That is so too when it has come back.
func (c *Call[T]) Late() <-chan struct{} { return c.ctx.Done() }

// Result is what the call has brought, and whether in time. The call is done.
func (c *Call[T]) Result() (value T, inTime bool, err error) {
	return c.value, c.inTime, c.err
}

// Abandon tells the call to come back, and that nobody waits for what it brings.
func (c *Call[T]) Abandon() {
	c.abandoned.Store(true)
	c.cancel()
}

// IsAbandoned reports whether nobody waits for what the call brings.
func (c *Call[T]) IsAbandoned() bool { return c.abandoned.Load() }

// IsDone reports whether the call has come back.
func (c *Call[T]) IsDone() bool { return isClosed(c.done) }

// IsLate reports whether the call has not come back in time.
func (c *Call[T]) IsLate() bool { return isClosed(c.Late()) && !c.IsDone() }

// Join waits until calls have come back, for a limited time together. It reports whether
// they have.
func Join[T any](limit time.Duration, calls ...*Call[T]) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for _, c := range calls {
		if c.IsDone() {
			continue
		}
		select {
		case <-c.done:
		case <-timer.C:
			return false
		}
	}
	return true
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

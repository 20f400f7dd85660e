package tunnel

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
)

const (
	// shutdownEach is the time for one client if they are few.
	shutdownEach = time.Millisecond
	// answersTime is how long it takes at most until nothing is left of a tunnel
	// whose client has been told, and some more for the processor.
	answersTime = 2 * time.Second
	// shutdownAnswerTime is closeAnswerTime when the process exits.
	shutdownAnswerTime = 500 * time.Millisecond
	// abortTime is how long the ends of aborted tunnels may take, which wait for
	// nobody but the processor.
	abortTime = time.Second
)

// exit is the end of all tunnels because the process exits.
type exit struct {
	once sync.Once
	// begun ends when it begins, and over is closed when no tunnel is left.
	begun context.Context
	begin context.CancelFunc
	over  chan struct{}
}

// hasBegun reports whether every tunnel has to end.
func (e *exit) hasBegun() bool {
	return e.begun.Err() != nil
}

// ExitBegun is closed when every tunnel has to end.
func (r *Registry) ExitBegun() <-chan struct{} {
	return r.exit.begun.Done()
}

// ErrExiting is the cause of the end of what is under way when the process exits.
var ErrExiting = errors.New("the process exits")

// UntilExit returns a context that ends with its parent, and when the process
// exits. What it is for has to end it.
func (r *Registry) UntilExit(parent context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(r.exit.begun, func() { cancel(ErrExiting) })
	return ctx, func(cause error) { stop(); cancel(cause) }
}

// IsExiting reports whether nothing is to begin any more.
func (r *Registry) IsExiting() bool {
	return r.exit.hasBegun() || r.exiting != nil && r.exiting()
}

// ShutDown begins to end all tunnels, for good, if that has not begun. What it
// returns is closed when none is left.
func (r *Registry) ShutDown() <-chan struct{} {
	e := &r.exit
	e.once.Do(func() {
		e.begin() // a tunnel that comes now sees that, or is collected below
		r.http3.closeAll()
		go r.endAll()
	})
	return e.over
}

// endAll ends all tunnels within the longest shutdown_period of any of them.
func (r *Registry) endAll() {
	defer close(r.exit.over)
	all := r.Collect(nil)
	var period time.Duration
	for _, t := range all {
		period = max(period, t.options.Shutdown)
	}
	deadline := time.NewTimer(period)
	defer deadline.Stop()
	IdleFirst(all)
	p := pacedClose{
		tunnels: all,
		// Whoever is told last needs time to answer too.
		period: min(max(period/2, period-answersTime), time.Duration(len(all))*shutdownEach),
		end:    func(t *Tunnel) { t.end(Shutdown, frame.StatusGoingAway) },
	}
	p.run(nil)
	if r.waitEmpty(deadline.C) {
		return
	}
	for _, t := range r.Collect(nil) {
		t.relay.Abort()
	}
	last := time.NewTimer(abortTime)
	defer last.Stop()
	r.waitEmpty(last.C)
}

// waitEmpty waits until there is no tunnel, and no handshake that might become
// one, and reports whether that happened in time.
func (r *Registry) waitEmpty(deadline <-chan time.Time) bool {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for r.busy.Load() > 0 {
		select {
		case <-deadline:
			return false
		case <-ticker.C:
		}
	}
	return true
}

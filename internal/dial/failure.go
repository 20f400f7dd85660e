package dial

import (
	"context"
	"errors"
	"time"
)

// Error tells why there is no answer to a handshake.
type Error struct {
	Stage Stage
	// Ended is how the context had ended by then, and Cause why; nil if it had not.
	Ended, Cause error
	Err          error
}

// Stage is how far a handshake has come.
type Stage int

// The stages, in their order.
const (
	// Making: the request cannot be sent as it is, so the upstream is not to blame.
	Making Stage = iota
	// Sending and Waiting: not one byte of an answer has come. As far as anyone can tell
	// the upstream has not seen the handshake.
	Sending
	Waiting
	// Reading: the answer has begun, but there is no whole header of one.
	Reading
	// Judging: there is an answer that is none.
	Judging
)

func (s Stage) String() string {
	return [...]string{
		Making:  "making the upstream's request",
		Sending: "sending the handshake",
		Waiting: "waiting for the answer",
		Reading: "reading the answer",
		Judging: "judging the answer",
	}[s]
}

func (e *Error) Error() string {
	switch {
	case e.Stage == Judging:
		return e.Err.Error()
	case errors.Is(e.Ended, context.DeadlineExceeded):
		return e.Stage.String() + ": the handshake took too long"
	}
	return e.Stage.String() + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// failed makes the error for a failure of the connection, that was to be over by a time if
// that is not zero.
func failed(ctx context.Context, by time.Time, at Stage, err error) error {
	e := &Error{Stage: at, Err: err}
	if e.Ended, e.Cause = Ended(ctx); e.Ended == nil && !by.IsZero() && !time.Now().Before(by) {
		e.Ended, e.Cause = context.DeadlineExceeded, context.DeadlineExceeded
	}
	return e
}

// judged makes the error for an answer that is none.
func judged(err error) error {
	if err == nil {
		return nil
	}
	return &Error{Stage: Judging, Err: err}
}

// Ended returns how a context has ended, and why; nil if it has not.
func Ended(ctx context.Context) (ended, cause error) {
	switch err := ctx.Err(); { // once, as it may end at any moment
	case err != nil:
		return err, context.Cause(ctx)
	case IsOver(ctx):
		return context.DeadlineExceeded, context.DeadlineExceeded
	}
	return nil, nil
}

// IsOver reports whether the deadline of ctx has passed. The deadlines of
// connections have timers of their own, which may be ahead of that of ctx.
func IsOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// tlsError is one of TLS with an upstream.
type tlsError struct{ error }

func (e tlsError) Error() string { return "TLS: " + e.error.Error() }
func (e tlsError) Unwrap() error { return e.error }

// IsTLS reports whether there is a connection, and TLS with the upstream has failed.
func IsTLS(err error) bool {
	_, ok := errors.AsType[tlsError](err)
	return ok
}

// timeoutError is an error that does not tell itself that it is a timeout.
type timeoutError struct{ error }

func (timeoutError) Timeout() bool   { return true }
func (e timeoutError) Unwrap() error { return e.error }

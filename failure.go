package websocketproxy

import (
	"context"
	"errors"
	"time"
)

// dialError tells why there is no answer to a handshake.
type dialError struct {
	// stage is how far the handshake has come.
	stage stage
	// ended is how the context had ended by then, and why that; nil if it had not.
	ended, why error
	err        error
}

// stage is how far a handshake has come.
type stage int

const (
	// making: the request cannot be sent as it is, so the upstream is not to blame.
	making stage = iota
	// sending and waiting: not one byte of an answer has come. As far as anyone can tell
	// the upstream has not seen the handshake.
	sending
	waiting
	// reading: the answer has begun, but there is no whole header of one.
	reading
	// judging: there is an answer that is none.
	judging
)

func (s stage) String() string {
	return [...]string{
		making:  "making the upstream's request",
		sending: "sending the handshake",
		waiting: "waiting for the answer",
		reading: "reading the answer",
		judging: "judging the answer",
	}[s]
}

func (e *dialError) Error() string {
	switch {
	case e.stage == judging:
		return e.err.Error()
	case errors.Is(e.ended, context.DeadlineExceeded):
		return e.stage.String() + ": the handshake took too long"
	}
	return e.stage.String() + ": " + e.err.Error()
}

func (e *dialError) Unwrap() error { return e.err }

// failedAt makes the error for a failure of the connection.
func failedAt(ctx context.Context, at stage, err error) error {
	e := &dialError{stage: at, err: err}
	e.ended, e.why = endOf(ctx)
	return e
}

// judged makes the error for an answer that is none.
func judged(err error) error {
	if err == nil {
		return nil
	}
	return &dialError{stage: judging, err: err}
}

// endOf returns how a context has ended, and why; nil if it has not.
func endOf(ctx context.Context) (ended, why error) {
	switch err := ctx.Err(); { // once, as it may end at any moment
	case err != nil:
		return err, context.Cause(ctx)
	case isOver(ctx):
		return context.DeadlineExceeded, context.DeadlineExceeded
	}
	return nil, nil
}

// isOver reports whether the deadline of ctx has passed. The deadlines of
// connections have timers of their own, which may be ahead of that of ctx.
func isOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// timeoutError is an error that does not tell itself that it is a timeout.
type timeoutError struct{ error }

func (timeoutError) Timeout() bool   { return true }
func (e timeoutError) Unwrap() error { return e.error }

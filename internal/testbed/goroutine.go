package testbed

import (
	"runtime"
	"testing"
)

// Go runs fn in a goroutine of its own and joins it before the test ends.
// Fatal and FailNow on the TB given to fn mark the test as failed and end only
// that goroutine. The returned function waits until fn has returned; without
// it, the end of the test breaks the connections of fn, which ends it quietly.
func Go(tb testing.TB, fn func(tb testing.TB)) (wait func()) {
	tb.Helper()
	done := make(chan struct{})
	wait = func() { <-done }
	tb.Cleanup(wait)

	go runIn(background{tb}, fn, done)
	return wait
}

func runIn(tb testing.TB, fn func(tb testing.TB), done chan<- struct{}) {
	tb.Helper()
	defer close(done)
	fn(tb)
}

// background is a TB for goroutines other than the test's own, where the real
// FailNow must not be called (see testing.T.FailNow).
type background struct{ testing.TB }

func (b background) FailNow() {
	b.Fail()
	runtime.Goexit()
}

func (b background) Fatal(args ...any) {
	b.Helper()
	b.Error(args...)
	runtime.Goexit()
}

func (b background) Fatalf(format string, args ...any) {
	b.Helper()
	b.Errorf(format, args...)
	runtime.Goexit()
}

// over is closed when the test function has returned, if tb is for a goroutine
// that the test then waits for. In a Cleanup of the test itself, waiting and
// failing must go on as before.
func over(tb testing.TB) <-chan struct{} {
	if b, ok := tb.(background); ok {
		return b.Context().Done()
	}
	return nil
}

// exitIfOver ends the calling goroutine quietly if over(tb) is closed.
func exitIfOver(tb testing.TB) {
	select {
	case <-over(tb):
		runtime.Goexit()
	default:
	}
}

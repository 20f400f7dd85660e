package server

import (
	"fmt"
	"net/http"
	"runtime/debug"
)

// OnOwnStack calls f on a goroutine of its own and waits for it. A stack that has grown
// stays as it is, which that of a handler's goroutine would do for as long as it waits.
func OnOwnStack(f func()) {
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if panicked = recover(); panicked != nil && panicked != http.ErrAbortHandler { //nolint:errorlint // as net/http does
				panicked = fmt.Sprintf("%v\n%s", panicked, debug.Stack())
			}
		}()
		f()
	}()
	<-done
	if panicked != nil {
		panic(panicked) // where it would have been
	}
}

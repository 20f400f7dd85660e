package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// What net/http does about a panic, it does as if there were one goroutine.
func TestPanicsLeaveTheirStack(t *testing.T) {
	panicOf := func(f func()) (value any) {
		defer func() { value = recover() }()
		OnOwnStack(f)
		return nil
	}
	if got := panicOf(func() {}); got != nil {
		t.Errorf("got the panic %v, want none", got)
	}
	if got := panicOf(func() { panic(http.ErrAbortHandler) }); got != http.ErrAbortHandler { //nolint:errorlint // as net/http does
		t.Errorf("got the panic %v, want the one that aborts a response", got)
	}
	got := fmt.Sprint(panicOf(func() { panic("oh no") }))
	if !strings.HasPrefix(got, "oh no\n") || !strings.Contains(got, "TestPanicsLeaveTheirStack") {
		t.Errorf("got the panic %q, want where it was too", got)
	}
}

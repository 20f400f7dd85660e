package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// The end of a request's context is that of its client, if no handler in front has
// set a limit, and until the handler returns.
func TestStreamTellsThatItsClientHasGone(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(cancel context.CancelFunc, stop func() bool)
		told bool
	}{
		"reset":                {func(cancel context.CancelFunc, _ func() bool) { cancel() }, true},
		"a limit":              {func(context.CancelFunc, func() bool) { time.Sleep(time.Hour) }, false},
		"the handler's return": {func(cancel context.CancelFunc, stop func() bool) { stop(); cancel() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				s := NewStream(ctx, httptest.NewRecorder(), io.NopCloser(strings.NewReader("")), nil)
				if err := s.Accept(); err != nil {
					t.Fatal(err)
				}
				told := make(chan error, 1)
				test.end(cancel, s.OnGone(func(err error) { told <- err }))
				synctest.Wait()
				select {
				case err := <-told:
					if !test.told || !errors.Is(err, relay.ErrReset) {
						t.Errorf("told %v", err)
					}
				default:
					if test.told {
						t.Error("was told nothing")
					}
				}
			})
		})
	}
}

func TestFailuresOfStreamsAreResets(t *testing.T) {
	for err, is := range map[error]bool{
		errors.New("client disconnected"):            true,
		&quic.StreamError{StreamID: 4, Remote: true}: true,
		&quic.ApplicationError{Remote: true}:         true,
		&quic.IdleTimeoutError{}:                     false,
		os.ErrDeadlineExceeded:                       false,
		io.EOF:                                       false,
		// Caddy's request_body bounds what a stream brings, as if it were a body.
		fmt.Errorf("reading: %w", &http.MaxBytesError{Limit: 10}): false,
	} {
		got := streamError(err)
		if errors.Is(got, relay.ErrReset) != is || !errors.Is(got, err) {
			t.Errorf("%v becomes %v", err, got)
		}
	}
}

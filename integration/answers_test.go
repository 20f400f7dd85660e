package integration

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestAnswerThatPauses has an upstream that refuses with a body for which it takes
// longer than a client may take to read something.
func TestAnswerThatPauses(t *testing.T) {
	t.Parallel()
	for name, connect := range connectors {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const limit = time.Second
			up := testbed.NewUpstream(t, nil)
			c := startStreaming(t, proxyTo(up.Addr, "write_timeout "+limit.String()))
			s := connect(t, c)(t, webSocket("/"))
			u := up.Next(t)
			u.ReadRequest()
			u.Send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n\r\nfirst")
			if status, _ := s.response(t); status != http.StatusUnauthorized {
				t.Errorf("the answer is %d, want 401", status)
			}
			if _, err := io.ReadFull(streamReader{s}, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * limit)
			u.Send("again")
			if rest, err := io.ReadAll(streamReader{s}); string(rest) != "again" || err != nil {
				t.Errorf("got %q, %v after the pause, want the rest", rest, err)
			}
			s.disconnect(t)
		})
	}
}

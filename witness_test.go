package websocketproxy

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// breaksAt serves a handler whose header operations panic at the n-th upstream that a
// handshake comes to.
func breaksAt(t *testing.T, h *Handler, n int64) (addr string) {
	t.Helper()
	h.Headers = &headers.Handler{Request: &headers.HeaderOps{Set: http.Header{"X-User": {"{broken}"}}}}
	provision(t, h)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked atomic.Int64
		repl := caddy.NewReplacer()
		repl.Map(func(name string) (any, bool) {
			if name == "broken" && asked.Add(1) == n {
				panic("a mistake in a module for placeholders")
			}
			return nil, false
		})
		r = caddyhttp.PrepareRequest(r, repl, w, new(caddyhttp.Server))
		t.Errorf("no panic, but %v", h.ServeHTTP(w, r, nil))
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// Somebody's code may panic for any witness, while another one is asked, too.
func TestPanicsForWitnessesTakeNoPlaces(t *testing.T) {
	for name, test := range map[string]struct {
		other testbed.Script
		at    int64
	}{
		"the first":                            {testbed.Echo, 2},
		"the second":                           {responds(503), 3},
		"the second, while the first is asked": {testbed.Silent, 3},
	} {
		t.Run(name, func(t *testing.T) {
			bad := testbed.NewUpstream(t, responds(503))
			one, two := testbed.NewUpstream(t, test.other), testbed.NewUpstream(t, test.other)
			h := doubting(time.Minute, bad.Addr, one.Addr, two.Addr)
			h.Upstreams[0].Weight, h.HealthChecks.Passive.MaxFails = 1000, 1
			c := testbed.Dial(t, breaksAt(t, h, test.at))
			c.Send(testbed.HandshakeRequest("/", c.Host))
			c.ExpectEOF()
			eventually(t, "all places are free", func() bool {
				return tunnelsOf(bad.Addr)+tunnelsOf(one.Addr)+tunnelsOf(two.Addr) == 0
			})
		})
	}
}

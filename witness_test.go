package websocketproxy

import (
	"context"
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

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
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

// A network of another module may panic while a witness answers, whose place is free then.
func TestPanicsWhileWitnessesAnswerTakeNoPlaces(t *testing.T) {
	bad, other := testbed.NewUpstream(t, testbed.Silent), testbed.NewUpstream(t, testbed.Echo)
	h := doubting(time.Minute, bad.Addr, other.Addr)
	h.HealthChecks.Passive.MaxFails = 1
	provision(t, h)
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(name, value)
	}
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, httptest.NewRecorder(), new(caddyhttp.Server))
	hs := &clientHandshake{account: h.openAccount(r)}
	if refused := h.checkHandshake(r, hs); refused != nil {
		t.Fatal(refused)
	}
	candidates, err := h.pool.Candidates(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer candidates.Close()
	chosen := candidates.Reserve(h.pool.Fixed[0])
	defer process.table.GiveBack(chosen)
	chosen.Late = 0
	all := &attempts{candidates: candidates, hs: hs, out: h.outbound(r, hs), repl: repl}
	hs.Apply(all.out)
	panicked := caught(func() {
		_, _, _ = h.exchange(t.Context(), all, chosen, time.Now(), func(ctx context.Context) (*dial.Answer, error) {
			<-ctx.Done() // it is overtaken
			panic("a mistake in a module for networks")
		})
	})
	if panicked == nil {
		t.Error("there was no panic")
	}
	if n := tunnelsOf(other.Addr); n != 0 {
		t.Errorf("%d places are taken at the witness", n)
	}
}

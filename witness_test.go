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
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
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

// handshakeFor is a request that asks for a WebSocket.
func handshakeFor(repl *caddy.Replacer, w http.ResponseWriter) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(name, value)
	}
	return caddyhttp.PrepareRequest(r, repl, w, new(caddyhttp.Server))
}

// overtaken is a handshake at the first upstream of a handler, which is late from the start.
func overtaken(t *testing.T, h *Handler) (context.Context, *attempts, *upstream.Choice) {
	t.Helper()
	h.HealthChecks.Passive.MaxFails = 1
	provision(t, h)
	repl := caddy.NewReplacer()
	r := handshakeFor(repl, httptest.NewRecorder())
	hs := &clientHandshake{account: h.openAccount(r)}
	if refused := h.checkHandshake(r, hs); refused != nil {
		t.Fatal(refused)
	}
	candidates, err := h.pool.Candidates(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(candidates.Close)
	chosen := candidates.Reserve(h.pool.Fixed[0])
	t.Cleanup(func() { process.table.GiveBack(chosen) })
	chosen.Late = 0
	out := h.outbound(r, hs)
	hs.Apply(out)
	ctx, giveUp := context.WithCancelCause(t.Context())
	return ctx, &attempts{candidates: candidates, giveUp: giveUp, hs: hs, out: out, repl: repl}, chosen
}

// A network of another module may panic while a witness answers, whose place is free then.
func TestPanicsWhileWitnessesAnswerTakeNoPlaces(t *testing.T) {
	bad, other := testbed.NewUpstream(t, testbed.Silent), testbed.NewUpstream(t, testbed.Echo)
	h := doubting(time.Minute, bad.Addr, other.Addr)
	ctx, all, chosen := overtaken(t, h)
	panicked := caught(func() {
		_, _, _ = h.exchange(ctx, all, chosen, time.Now(), func() (*dial.Answer, error) {
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

// Both answer at the same time, and the client has one tunnel only.
func TestWitnessesWhoseTunnelNobodyWantsAreAbandoned(t *testing.T) {
	late, other := testbed.NewUpstream(t, testbed.Silent), testbed.NewUpstream(t, testbed.Echo)
	h := doubting(time.Minute, late.Addr, other.Addr)
	h.Name = "abandons"
	ctx, all, chosen := overtaken(t, h)
	opens := &dial.Answer{Response: &http.Response{StatusCode: http.StatusSwitchingProtocols}}
	got, _, err := h.exchange(ctx, all, chosen, time.Now(), func() (*dial.Answer, error) {
		<-ctx.Done() // it is overtaken
		return opens, nil
	})
	if got != opens || err != nil {
		t.Errorf("got %v and %v, want the answer of the upstream itself", got, err)
	}
	if n := counted(t, "upstream_handshakes_abandoned_total", "abandons", other.Addr); n != 1 {
		t.Errorf("%v are abandoned at the witness, want 1", n)
	}
}

// The upstream is ready, but the connection of the client is not to be had.
func TestTunnelsThatAreNotOpenedAreAbandoned(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	h := &Handler{Name: "not opened", Upstreams: upstreams(up.Addr)}
	provision(t, h)
	w := httptest.NewRecorder()
	r := handshakeFor(caddy.NewReplacer(), w)
	if err := h.ServeHTTP(w, r, nil); err == nil {
		t.Error("there is a tunnel")
	}
	abandoned := counted(t, "upstream_handshakes_abandoned_total", h.Name, up.Addr)
	if opened := counted(t, "upstream_tunnels_opened_total", h.Name, up.Addr); abandoned != 1 || opened != 0 {
		t.Errorf("%v are abandoned and %v opened, want 1 and 0", abandoned, opened)
	}
}

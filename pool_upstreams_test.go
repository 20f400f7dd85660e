package websocketproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// polledSite is a configuration with handlers and a source that refers to them.
type polledSite struct {
	ctx     caddy.Context
	source  *guest.PoolUpstreams
	handler []*Handler
}

// loadPolled loads handlers and a source for reverse_proxy in one configuration.
// Whoever does checks with expectNothingHeld in a Cleanup of its own.
func loadPolled(t *testing.T, pool string, handlers ...*Handler) *polledSite {
	t.Helper()
	ctx, cancel := newContext()
	s := &polledSite{ctx: ctx, source: poolUpstreams(pool), handler: handlers}
	// In this order: modules are provisioned in any.
	if err := s.source.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	for _, h := range handlers {
		if err := h.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		h.sources.Start()
	}
	t.Cleanup(func() {
		for _, h := range handlers {
			if err := h.Cleanup(); err != nil {
				t.Error(err)
			}
		}
		cancel()
	})
	return s
}

// list returns what reverse_proxy would get.
func (s *polledSite) list(header ...string) ([]string, error) {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, new(caddyhttp.Server))
	upstreams, err := s.source.GetUpstreams(r)
	var dials []string
	for _, up := range upstreams {
		dials = append(dials, up.Dial)
	}
	return dials, err
}

func (s *polledSite) expect(t *testing.T, want ...string) {
	t.Helper()
	if got, err := s.list(); !slices.Equal(got, want) || err != nil {
		t.Errorf("the upstreams are %v, %v, want %v", got, err, want)
	}
}

func TestReverseProxyGetsWhatThePoolWouldUse(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	full := &Upstream{Dial: hostA, MaxTunnels: 1}
	found := newScript(t, gives("d.test:80"))
	s := loadPolled(t, "chat",
		&Handler{
			Name:                "chat",
			Upstreams:           []*Upstream{full, {Dial: hostB}, {Dial: hostC, Backup: true}},
			DynamicUpstreamsRaw: found.raw(""),
		},
		&Handler{Name: "other", Upstreams: upstreams("e.test:80")},
	)
	s.expect(t, hostA, hostB, "d.test:80")
	held := reserve(hostA)
	defer process.table.TunnelEnded(held)
	s.expect(t, hostA, hostB, "d.test:80") // though it takes no more tunnels
	defer operate(upstream.Ready, hostA, hostB, "d.test:80", hostC)
	operate(upstream.Drain, hostA)
	operate(upstream.Evict, "d.test:80")
	s.expect(t, hostB)
	down := s.handler[0].pool.Fixed[1]
	defer process.table.Unjudge(down)
	process.table.Report(process.table.Judge(down, "a check"), "bad", 1, 1)
	s.expect(t, hostC)
	operate(upstream.Maint, hostC)
	s.expect(t)
	operate(upstream.Ready, "d.test:80")
	s.expect(t, "d.test:80")
	found.do(gives("f.test:80"))
	expectStanding(t, s.handler[0], hostA, hostB, hostC, "f.test:80")
	s.expect(t, "f.test:80")
}

func TestPoolsOfOneNameArePutTogether(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	s := loadPolled(t, "chat",
		&Handler{Name: "chat", Upstreams: upstreams(hostA, hostB)},
		&Handler{Name: "chat", Upstreams: upstreams(hostB, hostC)},
	)
	s.expect(t, hostA, hostB, hostC)
}

func TestPoolOfAnotherConfigurationIsNotMeant(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	before := loadPolled(t, "chat", &Handler{Name: "chat", Upstreams: upstreams(hostA)})
	after := loadPolled(t, "chat", &Handler{Name: "chat", Upstreams: upstreams(hostB)})
	before.expect(t, hostA)
	after.expect(t, hostB)
	neither := loadPolled(t, "chat")
	if _, err := neither.list(); err == nil || !strings.Contains(err.Error(), "write `name chat` into") {
		t.Errorf("without such a pool, the error is %v", err)
	}
}

func TestPoolWithPlaceholders(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	const template = "{http.request.header.Room}.test:80"
	s := loadPolled(t, "chat", &Handler{Name: "chat", Upstreams: upstreams(template)})
	if got, err := s.list("Room", "a"); err != nil || !slices.Equal(got, []string{template}) {
		t.Errorf("the upstreams are %v, %v", got, err)
	}
	defer operate(upstream.Ready, hostA)
	operate(upstream.Drain, hostA)
	if got, err := s.list("Room", "a"); err != nil || len(got) > 0 {
		t.Errorf("the upstreams of a room that is drained are %v, %v", got, err)
	}
	if got, err := s.list("Room", "b"); err != nil || len(got) != 1 {
		t.Errorf("the upstreams of another room are %v, %v", got, err)
	}
	if got, err := s.list("Room", "b/"); err == nil {
		t.Errorf("the upstreams of a room that makes no address are %v", got)
	}
}

// Both handlers have to choose the same upstream for a client.
func TestSelectionPoliciesAgreeWithReverseProxy(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	for _, policy := range []string{`{"policy": "header", "field": "Room"}`, `{"policy": "ip_hash"}`, `{"policy": "uri_hash"}`} {
		s := loadPolled(t, "chat", &Handler{
			Name:                "chat",
			Upstreams:           upstreams(hostA, "tcp/"+hostB),
			DynamicUpstreamsRaw: newScript(t, gives("tcp/"+hostC, "d.test:80", "localhost.:90")).raw(""),
			LoadBalancing:       &LoadBalancing{SelectionPolicyRaw: json.RawMessage(policy)},
		})
		eventually(t, "all are found", func() bool { return len(addressesOf(s.handler[0])) == 5 })
		for i := range 50 {
			r := clientRequest(i)
			r.Header.Set("Room", fmt.Sprint(i))
			ours, _ := chooseOnce(t, s.handler[0], r)
			offered, err := s.source.GetUpstreams(r)
			if err != nil {
				t.Fatal(err)
			}
			var dials []string
			for _, up := range offered {
				dials = append(dials, up.Dial)
			}
			theirs, _ := theirChoice(t, policy, dials, r)
			a, err := settings.ParseAddress(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if a.HostPort != ours {
				t.Errorf("%s: for client %d, ours is %s and theirs %s", policy, i, ours, a.HostPort)
			}
		}
	}
}

func TestSourceForReverseProxyIsChecked(t *testing.T) {
	ctx, cancel := newContext()
	defer cancel()
	if _, err := ctx.LoadModuleByID("http.reverse_proxy.upstreams.websocket_proxy", json.RawMessage(`{}`)); err == nil ||
		!strings.Contains(err.Error(), "give the name of a websocket_proxy") {
		t.Errorf("without a name, the error is %v", err)
	}
	for input, want := range map[string]string{
		"websocket_proxy chat":           "",
		"websocket_proxy":                "needs the name",
		"websocket_proxy chat room":      "too many arguments",
		"websocket_proxy chat {\nfoo\n}": "has no block",
	} {
		u := poolUpstreams("")
		err := u.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		if want == "" && (err != nil || u.Pool != "chat") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, %+v", input, err, u)
		}
	}
	u := poolUpstreams("x")
	if _, err := u.GetUpstreams(new(http.Request)); err == nil {
		t.Error("a source without a configuration finds something")
	}
}

// As in a reload, while reverse_proxy tries an upstream after another.
func TestLateRequestGetsThePoolOfTheNewConfiguration(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	ctx, cancel := newContext()
	defer cancel()
	late := &polledSite{source: poolUpstreams("chat")}
	before := &Handler{Name: "chat", Upstreams: upstreams(hostA)}
	if err := errors.Join(late.source.Provision(ctx), before.Provision(ctx)); err != nil {
		t.Fatal(err)
	}
	loadPolled(t, "chat", &Handler{Name: "chat", Upstreams: upstreams(hostB)})
	late.expect(t, hostA)
	cancel()
	if err := before.Cleanup(); err != nil {
		t.Fatal(err)
	}
	loadPolled(t, "chat", &Handler{Name: "chat", Upstreams: upstreams(hostC)}) // is being loaded
	late.expect(t, hostB)
}

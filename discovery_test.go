package websocketproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

const (
	sourceFails = "upstream source fails; what it has found last stays"
	sourceWorks = "upstream source works again"
)

func TestTunnelsFollowWhatASourceFinds(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	s := newScript(t, gives(a.Addr))
	h := dynamic(s.raw(""))
	h.Drain = &Drain{EvictPeriod: caddy.Duration(10 * time.Millisecond)}
	p, _ := putInForce(t, h)
	first, upstream := upstreamOf(t, p)
	if upstream != a.Addr {
		t.Fatalf("the upstream is %s, want %s", upstream, a.Addr)
	}
	s.do(gives(a.Addr, b.Addr))
	expectStanding(t, h, a.Addr, b.Addr)
	second, upstream := upstreamOf(t, p)
	if upstream != b.Addr {
		t.Fatalf("the upstream is %s, want the new one, %s, which has no tunnels", upstream, b.Addr)
	}
	s.do(gives(b.Addr))
	first.ExpectClose(1012)
	first.WriteFrame(testbed.NewClose(1012, ""))
	first.ExpectEOF()
	expectFields(t, p.closedLine(), map[string]any{
		"reason": "evicted", "evicted_by": "source", "closed_by": "proxy", "upstream": a.Addr,
	})
	second.Echo("still here")
	third, upstream := upstreamOf(t, p)
	if upstream != b.Addr {
		t.Errorf("the upstream is %s, want %s", upstream, b.Addr)
	}
	for _, c := range []*testbed.Client{second, third} {
		c.CloseHandshake(1000)
		c.Close()
	}
	first.Close()
	p.expectLines("upstreams found", 3)
}

func TestFailingSourceKeepsWhatItHasFound(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	for name, bad := range map[string]action{
		"an error": fails(errors.New("no such host")),
		"a panic": func(*scriptedSource, *http.Request) ([]*reverseproxy.Upstream, error) {
			panic("lost")
		},
		"an end of the goroutine": func(*scriptedSource, *http.Request) ([]*reverseproxy.Upstream, error) {
			runtime.Goexit()
			return nil, nil
		},
		"nothing": gives(),
		"nulls": func(*scriptedSource, *http.Request) ([]*reverseproxy.Upstream, error) {
			return []*reverseproxy.Upstream{nil, nil}, nil
		},
		"no address":    gives("", "localhost", "localhost:1-9", "http://localhost:80", "udp/localhost:80"),
		"a placeholder": gives("{env.HOME}:80"),
		"addresses and an error": func(*scriptedSource, *http.Request) ([]*reverseproxy.Upstream, error) {
			return []*reverseproxy.Upstream{{Dial: "localhost:1"}}, errors.New("half of it")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, gives(up.Addr))
			h := dynamic(s.raw(""))
			p, unload := putInForce(t, h)
			defer unload()
			c, _ := upstreamOf(t, p)
			s.do(bad)
			p.line(sourceFails)
			s.awaitCalls(2)
			c.Echo("still here")
			another, upstream := upstreamOf(t, p)
			if upstream != up.Addr {
				t.Errorf("the upstream is %s, want %s", upstream, up.Addr)
			}
			s.do(gives(up.Addr))
			p.line(sourceWorks)
			p.expectLines(sourceFails, 1)
			p.expectLines(sourceWorks, 1)
			for _, c := range []*testbed.Client{c, another} {
				c.CloseHandshake(1000)
				c.Close()
			}
		})
	}
}

func TestWhatCannotBeUsedIsLeftOut(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	s := newScript(t, gives("b.test:80", "nonsense", "tcp/b.test:80", "a.test:80", "b.test:80", "udp/a.test:1"))
	h := dynamic(s.raw(""), "c.test:80", "a.test:80")
	p, _ := putInForce(t, h)
	// What is configured is there once, with its settings.
	expectStanding(t, h, "c.test:80", "a.test:80", "b.test:80")
	s.awaitCalls(2)
	p.expectLines("upstream source has found what cannot be used", 1)
}

func TestValidationAsksNothing(t *testing.T) {
	s := newScript(t, fails(errors.New("asked")))
	if err := provisionJSON(t, fmt.Sprintf(`{"dynamic_upstreams": %s}`, s.raw(""))); err != nil {
		t.Error(err)
	}
	if s.called() > 0 {
		t.Errorf("the source was asked %d times", s.called())
	}
}

func TestSourcesThatAreRefused(t *testing.T) {
	s := newScript(t, gives())
	for config, want := range map[string]string{
		`{}`:                        "at least one is needed, or dynamic_upstreams",
		`{"dynamic_upstreams": {}}`: "source: is empty",
		`{"dynamic_upstreams": []}`: "cannot unmarshal",
		`{"dynamic_upstreams": {"source": "unknown"}}`:                             "unknown module",
		`{"dynamic_upstreams": {"source": "a", "nonsense": 1}}`:                    "nonsense",
		`{"dynamic_upstreams": {"source": "multi"}}`:                               "has no sources",
		`{"dynamic_upstreams": {"source": "multi", "nonsense": 1}}`:                "nonsense",
		`{"dynamic_upstreams": {"source": "multi", "sources": [{"source": 1}]}}`:   "sources[0]",
		`{"dynamic_upstreams": {"source": "multi", "sources": [{"source": "x"}]}}`: "unknown module",
		`{"dynamic_upstreams": {"source": "websocket_proxy", "pool": "x"}}`:        "is for reverse_proxy",
		fmt.Sprintf(`{"dynamic_upstreams": %s, "upstreams": [{"dial": "a.test:80"}], "load_balancing": {
			"selection_policy": {"policy": "weighted_round_robin", "weights": [1]}}}`, s.raw("")): "weights: are by position",
	} {
		if err := provisionJSON(t, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is refused with %v, want %q", config, err, want)
		}
	}
}

func TestSourcesAreAskedForAllThatAreAlike(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	s := newScript(t, gives("a.test:80"))
	// Keys in another order are the same configuration, and multi is its parts.
	same := json.RawMessage(fmt.Sprintf(`{"variant":"","script":%q,"source":"scripted","refresh":"100ms"}`, s.name))
	multi := json.RawMessage(fmt.Sprintf(`{"source": "multi", "sources": [%s, %s]}`, same, s.raw("other")))
	one, two := dynamic(s.raw("")), dynamic(multi)
	_, unloadOne := putInForce(t, one)
	_, unloadTwo := putInForce(t, two)
	expectStanding(t, one, "a.test:80")
	expectStanding(t, two, "a.test:80")
	if got, _ := process.sources.Held(); got != 2 {
		t.Errorf("%d sources are asked, want 2", got)
	}
	eventually(t, "each source has found the address, one of them for two", func() bool {
		return !one.sources.ArePending() && !two.sources.ArePending()
	})
	unloadOne()
	s.awaitCalls(1)
	unloadTwo()
}

// hangs is the action not to come back before released is closed, whatever the
// context says.
func hangs(released <-chan struct{}, then action) action {
	return func(s *scriptedSource, r *http.Request) ([]*reverseproxy.Upstream, error) {
		<-released
		return then(s, r)
	}
}

// lookFor does what a handshake does to find upstreams.
func lookFor(tb testing.TB, h *Handler, extra ...string) (addresses []string, refused *refusal) {
	tb.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, line := range extra {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, nil, new(caddyhttp.Server))
	c, err := h.pool.Candidates(expander(repl))
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	refused = h.discover(r.Context(), c, r)
	for _, e := range c.Endpoints() {
		addresses = append(addresses, e.Host.Address)
	}
	return addresses, refused
}

// takes is the action to do something after a while, or to say why not.
func takes(d time.Duration, then action) action {
	return func(s *scriptedSource, r *http.Request) ([]*reverseproxy.Upstream, error) {
		select {
		case <-time.After(d):
			return then(s, r)
		case <-r.Context().Done():
			return nil, context.Cause(r.Context())
		}
	}
}

func TestHandshakesThatFindNothingAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		variant string
		err     error // of the source; nil: no answer
		want    string
	}{
		"no answer":                 {"", nil, "source scripted: no answer yet"},
		"an error":                  {"", errors.New("no such host"), "source scripted: no such host"},
		"no answer to the request":  {byRoom, nil, "source scripted: no answer within 2s"},
		"an error with the request": {byRoom, errors.New("no such host"), "source scripted: no such host"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				released := make(chan struct{})
				act := fails(test.err)
				if test.err == nil {
					act = hangs(released, gives(hostA))
				}
				h := &Handler{DynamicUpstreamsRaw: newScript(t, act).raw(test.variant)}
				load(t, h)
				h.sources.Start()
				found, refused := lookFor(t, h, "Room: a")
				if len(found) > 0 || refused == nil {
					t.Fatalf("found %v, and the client would be told %v", found, refused)
				}
				if refused.cause != causeNoUpstream || refused.status != 503 || !strings.Contains(refused.Error(), test.want) {
					t.Errorf("the client would be told %+v, %v", refused, refused.err)
				}
				close(released)
				synctest.Wait()
			})
		})
	}
}

func TestHandshakesNeedNoSourceThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScript(t, fails(errors.New("no such host")))
		h := &Handler{Upstreams: upstreams(hostB), DynamicUpstreamsRaw: s.raw("")}
		load(t, h)
		h.sources.Start()
		if found, refused := lookFor(t, h); refused != nil || !slices.Equal(found, []string{hostB}) {
			t.Errorf("found %v, and the client would be told %v", found, refused)
		}
	})
}

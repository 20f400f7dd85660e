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

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

const (
	sourceFails = "upstream source fails; what it has found last stays"
	sourceWorks = "upstream source works again"

	// As in internal/discovery.
	firstAnswerTimeout = 2 * time.Second
	pollTimeout        = 5 * time.Second
	leaveTimeout       = time.Second
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

func TestPlacesStayWhileAddressesDo(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	s := newScript(t, gives("a.test:80", "b.test:80"))
	h := dynamic(s.raw(""))
	putInForce(t, h)
	expectStanding(t, h, "a.test:80", "b.test:80")
	a, b := h.pool.Standing()[0], h.pool.Standing()[1]
	s.do(gives("c.test:80", "b.test:80"))
	expectStanding(t, h, "c.test:80", "b.test:80")
	if h.pool.Standing()[1] != b {
		t.Error("an upstream that has stayed has another place")
	}
	s.do(gives("a.test:80", "b.test:80"))
	expectStanding(t, h, "a.test:80", "b.test:80")
	if h.pool.Standing()[0] == a || h.pool.Standing()[1] != b {
		t.Error("what has come back has its old place, or what has stayed has not")
	}
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
	if got, _ := discoveries.Held(); got != 2 {
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
	for _, e := range c.Endpoints {
		addresses = append(addresses, e.Host.Address)
	}
	return addresses, refused
}

func TestHandshakesWaitForTheFirstAnswer(t *testing.T) {
	tests := map[string]struct {
		act    action
		dials  []string
		found  []string
		within time.Duration
		err    string
	}{
		"an answer":               {act: gives(hostA), found: []string{hostA}},
		"an answer after a while": {act: takes(time.Second, gives(hostA)), found: []string{hostA}, within: time.Second},
		"none":                    {act: takes(time.Hour, gives(hostA)), within: firstAnswerTimeout, err: "no answer yet"},
		"an error":                {act: fails(errors.New("no such host")), within: firstAnswerTimeout, err: "no such host"},
		"an error, but there is another upstream": {
			act: takes(time.Second, fails(errors.New("no such host"))), dials: []string{hostB}, found: []string{hostB}, within: time.Second,
		},
		"none, but there is another upstream": {
			act: takes(time.Hour, gives(hostA)), dials: []string{hostB}, found: []string{hostB}, within: firstAnswerTimeout,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				h := &Handler{Upstreams: upstreams(tt.dials...), DynamicUpstreamsRaw: newScript(t, tt.act).raw("")}
				load(t, h)
				h.sources.Start()
				began := time.Now()
				found, refused := lookFor(t, h)
				if got := time.Since(began); got != tt.within {
					t.Errorf("it took %v, want %v", got, tt.within)
				}
				if !slices.Equal(found, tt.found) {
					t.Errorf("found %v, want %v", found, tt.found)
				}
				if tt.err == "" {
					if refused != nil {
						t.Errorf("the client would be told %+v, %v", refused, refused.err)
					}
					return
				}
				if refused.cause != causeNoUpstream || refused.status != 503 || !strings.Contains(refused.Error(), tt.err) {
					t.Errorf("the client would be told %+v, %v", refused, refused.err)
				}
			})
		})
	}
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

func TestSourceThatHangsIsNotWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		released := make(chan struct{})
		s := newScript(t, hangs(released, gives(hostA)))
		h := &Handler{DynamicUpstreamsRaw: s.raw("")}
		unload := load(t, h)
		h.sources[0].Observer = &sourceLog{zap.NewNop()}
		h.sources.Start()
		time.Sleep(pollTimeout)
		synctest.Wait()
		if _, refused := lookFor(t, h); !strings.Contains(refused.Error(), "no answer within") {
			t.Errorf("the client would be told %v", refused)
		}
		time.Sleep(time.Hour)
		if got := s.called(); got != 1 {
			t.Errorf("the source is asked %d times at once", got)
		}
		// Another instance is asked at once, and the old one is not waited for.
		again := &Handler{DynamicUpstreamsRaw: s.raw("")}
		unloadAgain := load(t, again)
		s.do(takes(time.Minute, gives(hostB)))
		again.sources.Start()
		began := time.Now()
		unload()
		synctest.Wait()
		if got := s.called(); got != 2 {
			t.Errorf("the sources were asked %d times, want 2", got)
		}
		unloadAgain() // which is told to come back, and does
		if got := time.Since(began); got != 0 {
			t.Errorf("unloading took %v", got)
		}
		// A call that ignores that it is to come back is waited for a moment.
		s.do(hangs(released, gives(hostA)))
		third := &Handler{DynamicUpstreamsRaw: s.raw("")}
		unload = load(t, third)
		third.sources.Start()
		synctest.Wait()
		unload()
		if got := time.Since(began); got != leaveTimeout {
			t.Errorf("unloading took %v, want %v", got, leaveTimeout)
		}
		if _, got := discoveries.Held(); got != 2 {
			t.Errorf("%d calls are lost, want 2", got)
		}
		close(released)
		synctest.Wait()
		if _, got := discoveries.Held(); got != 0 {
			t.Errorf("%d calls are lost, want none", got)
		}
	})
}

func TestAnswerThatComesLateCounts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		released := make(chan struct{})
		h := &Handler{DynamicUpstreamsRaw: newScript(t, hangs(released, gives(hostA))).raw("")}
		load(t, h)
		h.sources.Start()
		time.Sleep(time.Minute)
		close(released)
		synctest.Wait()
		if got := addressesOf(h); !slices.Equal(got, []string{hostA}) {
			t.Errorf("the upstreams are %v", got)
		}
	})
}

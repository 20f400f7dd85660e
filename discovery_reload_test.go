package websocketproxy

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestReloadWithTheSameSourceKeepsTunnels(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	s := newScript(t, gives(up.Addr))
	p, unload := putInForce(t, dynamic(s.raw("")))
	c, _ := upstreamOf(t, p)
	old := s.lastAsked()
	s.do(fails(errors.New("down"))) // so that nothing is found anew

	after := dynamic(s.raw(""))
	pAfter, _ := putInForce(t, after)
	unload()
	expectStanding(t, after, up.Addr)
	eventually(t, "the new configuration's source is asked", func() bool { return s.lastAsked() != old })
	c.Echo("still here")
	another, _ := upstreamOf(t, pAfter)
	for _, c := range []*testbed.Client{c, another} {
		c.CloseHandshake(1000)
		c.Close()
	}
}

func TestReloadWithAnotherSourceJudgesByItsFirstAnswer(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	s := newScript(t, gives(a.Addr, b.Addr))
	before := dynamic(s.raw(""))
	before.Drain = &Drain{EvictPeriod: caddy.Duration(10 * time.Millisecond)}
	p, unload := putInForce(t, before)
	expectStanding(t, before, a.Addr, b.Addr)
	clients := openAt(t, p, a, b)

	released := make(chan struct{})
	s.do(hangs(released, gives(b.Addr)))
	pAfter, _ := putInForce(t, dynamic(s.raw("another")))
	unload()
	if orphans := orphans(process.live); len(orphans) > 0 {
		t.Errorf("%d tunnels would be ended before the new source has answered", len(orphans))
	}
	clients[0].Echo("still here")
	close(released)
	clients[0].ExpectClose(1012)
	clients[0].WriteFrame(testbed.NewClose(1012, ""))
	clients[0].ExpectEOF()
	expectFields(t, pAfter.closedLine(), map[string]any{"reason": "evicted", "evicted_by": "reload", "upstream": a.Addr})
	clients[1].Echo("still here")
	clients[1].CloseHandshake(1000)
	for _, c := range clients {
		c.Close()
	}
}

// Only the pool that the clients would come to may have to be waited for.
func TestSourceThatNeverAnswersConcernsItsPool(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		released := make(chan struct{})
		defer close(released)
		static := func(name string, dials ...string) *Handler {
			return &Handler{Name: name, Upstreams: upstreams(dials...)}
		}
		waiting := func(name string, dials ...string) *Handler {
			never := newScript(t, hangs(released, gives()))
			return &Handler{Name: name, Upstreams: upstreams(dials...), DynamicUpstreamsRaw: never.raw("")}
		}
		for name, tt := range map[string]struct {
			before, after, beside *Handler
			orphan                bool
		}{
			"its successor waits":              {static("chat", hostA), waiting("chat", hostB), static("", hostC), false},
			"its successor, by an upstream":    {static("", hostA, hostB), waiting("", hostB), static("", hostC), false},
			"one of another name waits":        {static("chat", hostA), static("chat", hostB), waiting("", hostC), true},
			"one with other upstreams waits":   {static("", hostA, hostB), static("", hostB), waiting("", hostC), true},
			"one of no name, and no successor": {static("", hostA), static("", hostB), waiting("", hostC), false},
		} {
			unload := load(t, tt.before)
			lost := &evict.Lease{Host: reserve(hostA), Policy: tt.before.evictPolicy}
			config, cancel := newContext()
			for _, h := range []*Handler{tt.after, tt.beside} {
				if err := h.Provision(config); err != nil {
					t.Fatal(err)
				}
				h.sources.Start()
			}
			unload()
			if got := lost.IsOrphan(); got != tt.orphan {
				t.Errorf("%s: the tunnel has lost its upstream: %t, want %t", name, got, tt.orphan)
			}
			for _, h := range []*Handler{tt.after, tt.beside} {
				if err := h.Cleanup(); err != nil {
					t.Error(err)
				}
			}
			cancel()
			if !lost.IsOrphan() {
				t.Errorf("%s: the tunnel has an upstream when nothing is loaded", name)
			}
			process.table.TunnelEnded(lost.Host)
		}
	})
}

func TestUnloadingTheSourceEvicts(t *testing.T) {
	for name, after := range map[string]*Handler{
		"and there is none":               nil,
		"and one that never answers goes": {DynamicUpstreamsRaw: newScript(t, takes(time.Hour, gives())).raw("")},
		"and the address is configured":   {Upstreams: upstreams(hostA)},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				h := &Handler{DynamicUpstreamsRaw: newScript(t, gives(hostA)).raw("")}
				unload := load(t, h)
				h.sources.Start()
				synctest.Wait()
				c, _ := h.pool.Candidates(nil) // has no templates
				defer c.Close()
				chosen := h.choose(c, new(http.Request))
				defer process.table.GiveBack(chosen.Choice)
				held := &evict.Lease{Host: chosen.Host, Policy: h.evictPolicy}
				unloadAfter := func() {}
				if after != nil {
					unloadAfter = load(t, after)
					after.sources.Start()
				}
				unload()
				if got := held.IsOrphan(); got != (after == nil) {
					t.Errorf("the tunnel has lost its upstream: %t", got)
				}
				unloadAfter()
				if !held.IsOrphan() {
					t.Error("the tunnel has an upstream that no configuration has")
				}
			})
		})
	}
}

// What another handler has had with tunnels must not be left out of choices
// because a source finds it too.
func TestWhatOthersHaveDoesNotStartSlowlyWhenItIsFound(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScript(t, gives(hostA))
		h := startingSlowly(hostC)
		h.DynamicUpstreamsRaw = s.raw("")
		load(t, &Handler{Upstreams: upstreams("busy.test:80")})
		load(t, h)
		h.sources.Start()
		time.Sleep(time.Second)
		held := reserve("busy.test:80")
		s.do(gives(hostA, "busy.test:80", "new.test:80"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		busy, newcomer := joinedAt(t, h, "busy.test:80"), joinedAt(t, h, "new.test:80")
		if !busy.IsZero() {
			t.Error("what has tunnels of another handler has started slowly")
		}
		if newcomer.IsZero() {
			t.Error("a newcomer has not started slowly")
		}
		process.table.TunnelEnded(held)
	})
}

func TestSourcesAreSharedByLineage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScript(t, gives(hostA))
		h := &Handler{DynamicUpstreamsRaw: s.raw("")}
		load(t, h)
		if got := h.loaded.Shown; len(got) != 1 || got[h.sources[0].Key] == "" {
			t.Errorf("the pool consists of %q", got)
		}
		again := &Handler{DynamicUpstreamsRaw: s.raw("")}
		load(t, again)
		if process.evictor.ClientGroup(again.loaded) != process.evictor.ClientGroup(h.loaded) {
			t.Error("a pool with the same source is not alike")
		}
	})
}

// A handshake that begins when its configuration is being unloaded is served as
// one with configured upstreams is.
func TestHandshakeAfterTheSourceHasGone(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	s := newScript(t, gives(up.Addr))
	before, after := dynamic(s.raw("")), dynamic(s.raw(""))
	p, unload := putInForce(t, before)
	expectStanding(t, before, up.Addr)
	putInForce(t, after)
	unload()
	c, _ := upstreamOf(t, p)
	c.Echo("the new configuration has the upstream")
	c.CloseHandshake(1000)
	c.Close()
}

// Clients come and go while the source changes its mind and fails, and while
// configurations with the same source and with another one are loaded.
func TestReloadsAndAnswersUnderLoad(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	ups := []*testbed.Upstream{testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)}
	s := newScript(t, gives(ups[0].Addr))
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		acts := []action{
			gives(ups[1].Addr), gives(ups[0].Addr, ups[1].Addr), gives(ups[1].Addr, ups[0].Addr, "nonsense"),
			func(asked *scriptedSource, r *http.Request) ([]*reverseproxy.Upstream, error) {
				if asked.Variant == byRoom { // which may have no answer yet
					return gives(ups[0].Addr)(asked, r)
				}
				return nil, errors.New("down")
			},
		}
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				s.do(acts[i%len(acts)])
			}
		}
	})
	var site atomic.Pointer[testProxy]
	variants := []string{"", "", "other", byRoom, byRoom, "other"}
	put := func(i int) (unload func()) {
		variant := variants[i%len(variants)]
		h := dynamic(s.raw(variant))
		h.Drain = &Drain{EvictPeriod: caddy.Duration(time.Millisecond)}
		p, unload := putInForce(t, h)
		// A handshake that waits for a first answer would not get one any more
		// after the next reload.
		if variant != byRoom {
			eventually(t, "there are upstreams", func() bool { return len(addressesOf(h)) > 0 })
		}
		site.Store(p)
		return unload
	}
	unload := put(0)
	for i := range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c := testbed.Dial(t, site.Load().Addr)
				c.Handshake("/", fmt.Sprint("Room: ", i))
				c.Close()
			}
		})
	}
	for i := range 15 {
		next := put(i + 1)
		unload()
		unload = next
		s.awaitCalls(2)
	}
	close(stop)
	all.Wait()
}

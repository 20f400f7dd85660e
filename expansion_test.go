package websocketproxy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// byRoom makes another configuration for each value of the header field Room.
const byRoom = "{http.request.header.Room}"

func TestWhatNeedsARequest(t *testing.T) {
	for config, want := range map[string][]string{
		`{"name": "a.test"}`: nil,
		`{"name": "{env.X}{file./x}{system.os}{time.now.year}{env.}"}`:                      nil,
		`{"name": "{http.request.host}"}`:                                                   {"http.request.host"},
		`{"sources": [{"name": ["{b}.{a}", {"x": "{a}"}]}], "{key}": 1, "n": 1, "z": null}`: {"a", "b"},
	} {
		var parsed any
		mustParse(t, []byte(config), &parsed)
		if got := requestPlaceholders(parsed); !slices.Equal(got, want) {
			t.Errorf("%s needs %q, want %q", config, got, want)
		}
	}
}

// tellsRoom is the action to give an address for the room of the request.
func tellsRoom(s *scriptedSource, r *http.Request) ([]*reverseproxy.Upstream, error) {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return gives(repl.ReplaceAll(s.Variant, "nowhere")+".test:80")(s, r)
}

func TestSourcesWithPlaceholdersAreAskedInHandshakes(t *testing.T) {
	inFlock(t, func(f *flock) {
		s := newScript(t, tellsRoom)
		h := &Handler{DynamicUpstreamsRaw: s.raw(byRoom), Upstreams: upstreams(hostC)}
		f.load(h)
		h.pool.startSources()
		time.Sleep(time.Minute)
		if s.called() > 0 {
			t.Errorf("the source was asked %d times without a request", s.called())
		}
		for _, room := range []string{"a", "b"} {
			if got, _ := lookFor(t, h, "Room: "+room); !slices.Equal(got, []string{hostC, room + ".test:80"}) {
				t.Errorf("room %s has %v", room, got)
			}
		}
		s.do(fails(errors.New("down")))
		if got, _ := lookFor(t, h, "Room: b"); !slices.Equal(got, []string{hostC, hostB}) {
			t.Errorf("when the source fails, room b has %v", got)
		}
		if got, _ := lookFor(t, h, "Room: c"); !slices.Equal(got, []string{hostC}) {
			t.Errorf("when the source fails, a room that nobody has asked for has %v", got)
		}
	})
}

func TestHandshakesShareACall(t *testing.T) {
	inFlock(t, func(f *flock) {
		s := newScript(t, takes(time.Second, tellsRoom))
		h := &Handler{DynamicUpstreamsRaw: s.raw(byRoom)}
		f.load(h)
		var all sync.WaitGroup
		for i := range 100 {
			room := []string{"a", "b"}[i%2]
			all.Go(func() {
				if got, refused := lookFor(t, h, "Room: "+room); !slices.Equal(got, []string{room + ".test:80"}) {
					t.Errorf("room %s has %v: %v", room, got, refused)
				}
			})
		}
		all.Wait()
		if got := s.called(); got != 2 {
			t.Errorf("the source was asked %d times, want once for each room", got)
		}
	})
}

func TestCallInAHandshakeIsLimited(t *testing.T) {
	inFlock(t, func(f *flock) {
		released := make(chan struct{})
		s := newScript(t, hangs(released, tellsRoom))
		h := &Handler{DynamicUpstreamsRaw: s.raw(byRoom)}
		f.load(h)
		began := time.Now()
		_, refused := lookFor(t, h, "Room: a")
		if got := time.Since(began); got != askTimeout || refused.status != 503 {
			t.Errorf("after %v the client would be told %v", got, refused)
		}
		if !strings.Contains(refused.Error(), "source scripted: no answer within 2s") {
			t.Errorf("the client would be told %v", refused)
		}
		_, _ = lookFor(t, h, "Room: a")
		if got := time.Since(began); got != askTimeout || s.called() != 1 {
			t.Errorf("a source that hangs is waited for, or asked again (%d calls)", s.called())
		}
		close(released)
		synctest.Wait()
		s.do(fails(errors.New("down")))
		if got, _ := lookFor(t, h, "Room: a"); !slices.Equal(got, []string{hostA}) {
			t.Errorf("a late answer does not count: %v", got)
		}
	})
}

func TestClientThatGoesDoesNotEndTheCallOfOthers(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	released := make(chan struct{})
	s := newScript(t, hangs(released, func(s *scriptedSource, r *http.Request) ([]*reverseproxy.Upstream, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		return gives(up.Addr)(s, r)
	}))
	h := dynamic(s.raw(byRoom))
	p, _ := putInForce(t, h)
	first := testbed.Dial(t, p.Addr)
	first.Send(testbed.HandshakeRequest("/", first.Host))
	eventually(t, "the source is asked", func() bool { return s.called() == 1 })
	first.Close()
	line := p.line("handshake refused")
	expectFields(t, line, map[string]any{"cause": "client_gone"})
	second := testbed.Dial(t, p.Addr)
	second.Send(testbed.HandshakeRequest("/", second.Host))
	close(released)
	if got := second.Response().StatusCode; got != 101 {
		t.Errorf("status %d, want 101", got)
	}
	second.CloseHandshake(1000)
	second.Close()
	if got := s.called(); got > 2 {
		t.Errorf("the source was asked %d times", got)
	}
}

func TestTunnelsOfARoomFollowItsAnswers(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	s := newScript(t, gives(a.Addr))
	h := dynamic(s.raw(byRoom))
	h.Drain = &Drain{EvictPeriod: caddy.Duration(10 * time.Millisecond)}
	p, unload := putInForce(t, h)
	first, _ := upstreamOf(t, p, "Room: 1")
	other, _ := upstreamOf(t, p, "Room: 2")
	if got := hosts.list(); len(got) != 1 || got[0].Source != "scripted" || got[0].Configured {
		t.Errorf("the list has %+v", got)
	}
	after := dynamic(s.raw(byRoom))
	p, _ = putInForce(t, after)
	unload()
	first.Echo("the source is the same")
	s.do(gives(b.Addr))
	second, upstream := upstreamOf(t, p, "Room: 1")
	if upstream != b.Addr {
		t.Errorf("the upstream is %s, want %s", upstream, b.Addr)
	}
	first.ExpectClose(1012)
	first.WriteFrame(testbed.NewClose(1012, ""))
	first.ExpectEOF()
	expectFields(t, p.closedLine(), map[string]any{"reason": "evicted", "evicted_by": "source", "upstream": a.Addr})
	other.Echo("nobody has asked for this room again")
	second.Echo("still here")
	for _, c := range []*testbed.Client{second, other} {
		c.CloseHandshake(1000)
		c.Close()
	}
	first.Close()
}

func TestTunnelsOfARoomEndWithTheSource(t *testing.T) {
	inFlock(t, func(f *flock) {
		s := newScript(t, tellsRoom)
		h := &Handler{DynamicUpstreamsRaw: s.raw(byRoom)}
		unload := f.load(h)
		_, _ = lookFor(t, h, "Room: a")
		x := onlyExpansion(t, h)
		opened := newTunnel("id", h.tunnelPolicy, f.live, reserve(hostA), "")
		defer hosts.tunnelEnded(opened.upstreamHost)
		opened.from = x.from
		f.load(&Handler{DynamicUpstreamsRaw: s.raw("other " + byRoom)})
		if opened.isOrphan() {
			t.Error("the tunnel has lost its upstream while its source is loaded")
		}
		unload()
		if !opened.isOrphan() {
			t.Error("the tunnel has an upstream of a source that no configuration has")
		}
		if by := hosts.removedBy(opened.upstreamHost, opened.from); by != evictedByReload {
			t.Errorf("its upstream was removed by %s", by)
		}
	})
}

// onlyExpansion returns what is remembered of the handler's source.
func onlyExpansion(tb testing.TB, h *Handler) *expansion {
	tb.Helper()
	expansions.mu.Lock()
	defer expansions.mu.Unlock()
	var found *expansion
	for key, x := range expansions.m {
		if strings.HasPrefix(key, h.pool.sources[0].config) {
			if found != nil {
				tb.Fatal("there are several")
			}
			found = x
		}
	}
	if found == nil {
		tb.Fatal("there is none")
	}
	return found
}

// forgetExpansions is for bubbles, whose time is not that of other tests.
func forgetExpansions() {
	expansions.mu.Lock()
	defer expansions.mu.Unlock()
	clear(expansions.m)
	expansions.swept = time.Time{}
}

func TestAnswersAreKeptForAWhile(t *testing.T) {
	inFlock(t, func(f *flock) {
		forgetExpansions()
		defer forgetExpansions()
		s := newScript(t, tellsRoom)
		h := &Handler{DynamicUpstreamsRaw: s.raw(byRoom)}
		f.load(h)
		_, _ = lookFor(t, h, "Room: a")
		_, _ = lookFor(t, h, "Room: b")
		x, _ := expansions.ask(h.pool.sources[0], []string{"a"}, requestForNobody())
		hosts.joined(x.from)
		knows := func(room string) bool {
			s.do(fails(errors.New("down")))
			got, _ := lookFor(t, h, "Room: "+room)
			s.do(tellsRoom)
			return len(got) > 0
		}
		synctest.Wait()
		time.Sleep(keepExpansion - time.Second)
		_, _ = lookFor(t, h, "Room: c")
		if !knows("b") {
			t.Error("an answer was forgotten too early")
		}
		time.Sleep(2 * keepExpansion)
		_, _ = lookFor(t, h, "Room: d")
		if !knows("a") {
			t.Error("an answer was forgotten that a tunnel is about")
		}
		if knows("b") {
			t.Error("an answer was kept that is of no use")
		}
		hosts.left(x.from)
	})
}

func TestAnswersAreLimited(t *testing.T) {
	inFlock(t, func(f *flock) {
		forgetExpansions()
		defer forgetExpansions()
		s := newScript(t, tellsRoom)
		h := &Handler{DynamicUpstreamsRaw: s.raw(byRoom)}
		f.load(h)
		for i := range maxExpansions + 10 {
			_, _ = lookFor(t, h, fmt.Sprint("Room: ", i))
		}
		expansions.mu.Lock()
		got := len(expansions.m)
		expansions.mu.Unlock()
		if got != maxExpansions {
			t.Errorf("%d answers are kept, want %d", got, maxExpansions)
		}
		calls := s.called()
		if _, refused := lookFor(t, h, "Room: "+strings.Repeat("x", maxValues+1)); refused.status != 503 || s.called() != calls {
			t.Errorf("a client with a long value would be told %v, and the source is asked", refused)
		}
	})
}

func TestPlacesOfARoomStay(t *testing.T) {
	inFlock(t, func(f *flock) {
		h := &Handler{DynamicUpstreamsRaw: newScript(t, gives(hostA, hostB)).raw(byRoom)}
		f.load(h)
		_, _ = lookFor(t, h, "Room: 1")
		x := onlyExpansion(t, h)
		s := h.pool.sources[0]
		first, other := s.slotFor(x.from, x.found[0]), s.slotFor(x.from, x.found[1])
		if again := s.slotFor(x.from, x.found[0]); again != first {
			t.Error("an address has another place in each handshake")
		}
		if first == other {
			t.Error("two addresses share a place")
		}
		if first.foreign.Dial != hostA {
			t.Errorf("policies see %s", first.foreign.Dial)
		}
	})
}

func TestLateHandshakeAsksTheNewConfiguration(t *testing.T) {
	inFlock(t, func(f *flock) {
		s := newScript(t, tellsRoom)
		before, after := &Handler{DynamicUpstreamsRaw: s.raw(byRoom)}, &Handler{DynamicUpstreamsRaw: s.raw(byRoom)}
		unload := f.load(before)
		_, _ = lookFor(t, before, "Room: a")
		old := s.lastAsked()
		unloadAfter := f.load(after)
		if _, _ = lookFor(t, before, "Room: a"); s.lastAsked() != old {
			t.Error("the source of a configuration that is being loaded was asked for another one")
		}
		unload()
		if got, _ := lookFor(t, before, "Room: b"); s.lastAsked() == old || !slices.Equal(got, []string{hostB}) {
			t.Errorf("found %v, by the source of an unloaded configuration", got)
		}
		unloadAfter()
	})
}

func TestListedAddressIsNotFoundAgain(t *testing.T) {
	inFlock(t, func(f *flock) {
		s := newScript(t, gives(hostA, hostB, hostC, "d.test:80"))
		again := newScript(t, gives("d.test:80", "e.test:80"))
		multi := fmt.Sprintf(`{"source": "multi", "sources": [%s, %s]}`, s.raw(byRoom), again.raw(byRoom))
		h := &Handler{DynamicUpstreamsRaw: []byte(multi), Upstreams: []*Upstream{
			{Dial: hostA, MaxTunnels: 1}, {Dial: hostB, Backup: true}, {Dial: "{http.request.header.Room}.test:80"},
		}}
		f.load(h)
		if got, _ := lookFor(t, h, "Room: c"); !slices.Equal(got, []string{hostA, hostB, hostC, "d.test:80", "e.test:80"}) {
			t.Errorf("the upstreams are %v", got)
		}
	})
}

// Neither does it take the time of an upstream, nor that of another source.
func TestSlowSourcesAreNotWaitedForLong(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	released := make(chan struct{})
	defer close(released)
	never := hangs(released, gives())
	multi := fmt.Sprintf(`{"source": "multi", "sources": [%s, %s, %s]}`,
		newScript(t, never).raw(byRoom), newScript(t, never).raw(byRoom), newScript(t, gives(up.Addr)).raw(byRoom))
	h := &Handler{DynamicUpstreamsRaw: []byte(multi), Timeouts: &Timeouts{Handshake: caddy.Duration(time.Second)}}
	newProxy(t, h).accepted(t)
}

package websocketproxy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// byRoom makes another configuration for each value of the header field Room.
const byRoom = "{http.request.header.Room}"

// tellsRoom is the action to give an address for the room of the request.
func tellsRoom(s *scriptedSource, r *http.Request) ([]*reverseproxy.Upstream, error) {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return gives(repl.ReplaceAll(s.Variant, "nowhere")+".test:80")(s, r)
}

func TestSourcesWithPlaceholdersAreAskedInHandshakes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScript(t, tellsRoom)
		h := &Handler{DynamicUpstreamsRaw: s.raw(byRoom), Upstreams: upstreams(hostC)}
		load(t, h)
		h.sources.Start()
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
		if got, _ := lookFor(t, h, "Room: b"); !slices.Equal(got, []string{hostC}) {
			t.Errorf("when the source fails, room b has %v", got)
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

func TestClientThatGoesEndsItsOwnCall(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	asked, ended := make(chan struct{}), make(chan struct{})
	s := newScript(t, func(_ *scriptedSource, r *http.Request) ([]*reverseproxy.Upstream, error) {
		close(asked)
		<-r.Context().Done()
		close(ended)
		return nil, r.Context().Err()
	})
	p, _ := putInForce(t, dynamic(s.raw(byRoom)))
	first := testbed.Dial(t, p.Addr)
	first.Send(testbed.HandshakeRequest("/", first.Host))
	<-asked
	s.do(gives(up.Addr))
	first.Close()
	<-ended
	expectFields(t, p.line("handshake refused"), map[string]any{"cause": "client_gone"})
	second := testbed.Dial(t, p.Addr)
	second.Send(testbed.HandshakeRequest("/", second.Host))
	if got := second.Response().StatusCode; got != 101 {
		t.Errorf("status %d, want 101", got)
	}
	second.CloseHandshake(1000)
	second.Close()
}

func TestTunnelsOfARoomLiveUntilTheyEnd(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	s := newScript(t, gives(a.Addr))
	h := dynamic(s.raw(byRoom))
	h.Drain = &Drain{EvictPeriod: caddy.Duration(time.Millisecond)}
	p, unload := putInForce(t, h)
	first, _ := upstreamOf(t, p, "Room: 1")
	if got := process.table.List(); len(got) != 1 || got[0].Source != "scripted" || got[0].Configured {
		t.Errorf("the list has %+v", got)
	}
	s.do(gives(b.Addr))
	second, upstream := upstreamOf(t, p, "Room: 1")
	if upstream != b.Addr {
		t.Errorf("the upstream is %s, want %s", upstream, b.Addr)
	}
	after := proxyTo(t, b.Addr)
	unload()
	third, _ := upstreamOf(t, after)
	for _, tunnel := range process.live.Collect(nil) {
		if evict.LeaseOf(tunnel).IsOrphan() {
			t.Errorf("the tunnel to %s has lost its upstream", tunnel.Upstream)
		}
	}
	for _, c := range []*testbed.Client{first, second, third} {
		c.Echo("still here")
		c.CloseHandshake(1000)
		c.Close()
	}
}

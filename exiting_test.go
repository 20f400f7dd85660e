package websocketproxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// withExit gives the handler of a proxy a process that may exit.
func withExit(t *testing.T, p *testProxy) *tunnel.Registry {
	t.Helper()
	return withExitThat(t, p, nil)
}

// withExitThat is withExit of a process that tells whether it is about to exit.
func withExitThat(t *testing.T, p *testProxy, exiting func() bool) *tunnel.Registry {
	t.Helper()
	live := tunnel.NewRegistry(exiting)
	p.handler.live = live
	t.Cleanup(func() {
		<-live.ShutDown()
		if n := live.InUse(); n != 0 {
			t.Errorf("%d handshakes and tunnels are counted at the end", n)
		}
	})
	return live
}

// expectTurnedAway checks that a client was told to come again.
func expectTurnedAway(t *testing.T, p *testProxy, resp *http.Response) {
	t.Helper()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("the answer is %s with %v, want 503 with Retry-After", resp.Status, resp.Header)
	}
	expectFields(t, p.line("handshake refused"), map[string]any{"cause": "shutdown", "status": int64(503)})
}

func TestExitEndsHandshakesThatWait(t *testing.T) {
	for name, set := range map[string]func(h *Handler){
		"for the answer":                  func(*Handler) {},
		"for the answer, without a limit": func(h *Handler) { h.Timeouts = &Timeouts{Handshake: -1} },
		"for an upstream": func(h *Handler) {
			h.Upstreams = upstreams("127.0.0.1:1")
			h.LoadBalancing = &LoadBalancing{
				TryDuration: caddy.Duration(time.Hour), TryInterval: caddy.Duration(time.Hour / 2),
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			h := &Handler{Upstreams: upstreams(up.Addr)}
			set(h)
			p := newProxy(t, h)
			live := withExit(t, p)
			c := testbed.Dial(t, p.Addr)
			c.Send(testbed.HandshakeRequest("/", "example.com"))
			eventually(t, "the handshake is under way", func() bool { return live.InUse() == 1 })
			if h.LoadBalancing == nil {
				up.Next(t).ReadRequest()
			}
			over := live.ShutDown()
			expectTurnedAway(t, p, c.Response())
			<-over
		})
	}
}

func TestExitingProcessTakesNoHandshakes(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	for name, exit := range map[string]func(p *testProxy){
		"exits":       func(p *testProxy) { <-withExit(t, p).ShutDown() },
		"is about to": func(p *testProxy) { withExitThat(t, p, func() bool { return true }) },
	} {
		t.Run(name, func(t *testing.T) {
			p := proxyTo(t, up.Addr)
			exit(p)
			c := testbed.Dial(t, p.Addr)
			c.Send(testbed.HandshakeRequest("/", "example.com"))
			expectTurnedAway(t, p, c.Response())
		})
	}
	if n := up.Accepted(); n != 0 {
		t.Errorf("the upstream has got %d connections", n)
	}
}

// Nothing else looks whether the process exits where there is no tunnel yet.
func TestHandshakesSeeTheExitThemselves(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	exits := make(chan struct{})
	withExitThat(t, p, func() bool { return isClosed(exits) })
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	up.Next(t).ReadRequest()
	close(exits)
	expectTurnedAway(t, p, c.Response())
}

func TestExitEndsAnswersThatAreStreamed(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	live := withExit(t, p)
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	u := up.Next(t)
	u.ReadRequest()
	u.Send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
	body := c.Response().Body
	if _, err := io.ReadFull(body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	<-live.ShutDown()
	if rest, err := io.ReadAll(body); len(rest) > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v, want an unexpected end", rest, err)
	}
}

// endsMeanwhile is a context that is ended right after it was asked whether it has.
type endsMeanwhile struct {
	context.Context

	end context.CancelCauseFunc
}

func (c endsMeanwhile) Err() error {
	defer c.end(tunnel.ErrExiting)
	return c.Context.Err()
}

func TestExitThatBeginsDuringAFailureIsNoTimeout(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	refused := refuseUpstream(endsMeanwhile{ctx, cancel}, errors.New("refused"), "dialing", causeDialTimeout, causeDialFailed)
	if refused.cause != causeDialFailed && refused.cause != causeShutdown {
		t.Errorf("the cause is %s, want %s or %s", refused.cause, causeDialFailed, causeShutdown)
	}
}

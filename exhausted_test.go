package websocketproxy

import (
	"context"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// runningOut has dials fail as they do when this side has run out of something, while
// lacks is set.
func runningOut(h *Handler, err error, lacks func() bool) {
	dial := h.transport.Connect
	h.transport.Connect = func(ctx context.Context, network, address string) (net.Conn, error) {
		if !lacks() {
			return dial(ctx, network, address)
		}
		return nil, reverseproxy.NewDialError(&net.OpError{Op: "dial", Net: network, Err: err})
	}
}

// shortOf are the errors for which this side has run out of something.
var shortOf = map[string]error{
	"descriptors of the process": os.NewSyscallError("socket", syscall.EMFILE),
	"descriptors of the system":  os.NewSyscallError("socket", syscall.ENFILE),
	"buffers":                    os.NewSyscallError("connect", syscall.ENOBUFS),
	"memory":                     os.NewSyscallError("socket", syscall.ENOMEM),
	"ports":                      os.NewSyscallError("connect", syscall.EADDRNOTAVAIL),
	"ports for an address":       os.NewSyscallError("bind", syscall.EADDRINUSE),
	"descriptors in a lookup":    &net.DNSError{Err: "dial udp 127.0.0.53:53: socket: too many open files", Name: "a"},
}

func resetShortage(t *testing.T) {
	t.Helper()
	process.toldShortage.Store(0)
	t.Cleanup(func() { process.toldShortage.Store(0) })
}

func TestOwnShortageIsNotTheUpstreams(t *testing.T) {
	for name, err := range shortOf {
		t.Run(name, func(t *testing.T) {
			resetShortage(t)
			up := testbed.NewUpstream(t, testbed.Echo)
			p := newProxy(t, watching(up.Addr))
			lacks := true
			runningOut(p.handler, err, func() bool { return lacks })
			for range 5 {
				c := testbed.Dial(t, p.Addr)
				line := p.expectRefusal(causeExhausted, http.StatusServiceUnavailable, func() {
					c.Send(testbed.HandshakeRequest("/", c.Host))
					resp := c.Response()
					if resp.Header.Get("Retry-After") == "" {
						t.Error("no Retry-After")
					}
					c.Body(resp)
				})
				expectFields(t, line, map[string]any{"upstream": up.Addr})
				c.Close()
			}
			if failing := failingAddresses(); len(failing) > 0 {
				t.Errorf("failing are %v, want none", failing)
			}
			told := p.logs.Filter(func(e observer.LoggedEntry) bool {
				return strings.HasPrefix(e.Message, "connections to upstreams fail for want of resources here: ")
			})
			if told.Len() != 1 {
				t.Errorf("%d lines tell of it, want 1", told.Len())
			}
			lacks = false
			c := testbed.Dial(t, p.Addr)
			c.Handshake("/")
			c.Close()
		})
	}
}

// A probe that cannot be made finds nothing out, and ends no tunnel.
func TestProbesForWantOfResources(t *testing.T) {
	for _, kind := range []string{health.TCP, health.HTTP, health.WebSocket} {
		t.Run(kind, func(t *testing.T) {
			resetShortage(t)
			up := testbed.NewUpstream(t, testbed.Echo)
			h := with(t, up.Addr, `{"health_checks": {"active": {"kind": "`+kind+`", "on_unhealthy": "evict", "interval": "10ms"}}}`)
			p := newProxy(t, h)
			core, logs := observer.New(zapcore.DebugLevel)
			h.check.logger = zap.New(core)
			client := testbed.Dial(t, p.Addr)
			client.Handshake("/")
			var dials atomic.Int32
			runningOut(h, shortOf["descriptors of the process"], func() bool { dials.Add(1); return true })
			h.startChecks()
			eventually(t, "several probes", func() bool { return dials.Load() >= 3 })
			if got := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); got != 1 {
				t.Errorf("%d lines, want 1", got)
			}
			if got := healthOf(t, up.Addr); got.Health != upstream.Unchecked || !got.Checked.IsZero() {
				t.Errorf("is %s, checked at %v; want nothing to be known", got.Health, got.Checked)
			}
			client.Echo("still there")
			client.CloseHandshake(1000)
			client.Close()
		})
	}
}

func TestShortageIsToldOnceAMinute(t *testing.T) {
	resetShortage(t)
	core, logs := observer.New(zapcore.DebugLevel)
	for range 3 {
		tellShortage(zap.New(core), "x", syscall.EMFILE)
	}
	process.toldShortage.Store(time.Now().Add(-shortageInterval).UnixNano())
	tellShortage(zap.New(core), "x", syscall.EMFILE)
	if logs.Len() != 2 {
		t.Errorf("%d lines, want 2", logs.Len())
	}
}

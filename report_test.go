package websocketproxy

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

func TestLineOfAClosedTunnel(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := newProxy(t, &Handler{
		Upstreams: upstreams(up.Addr),
		Headers: &headers.Handler{Request: &headers.HeaderOps{
			Set: http.Header{"Tunnel": {"{http.websocket_proxy.tunnel.id}"}},
		}},
	})
	c := testbed.Dial(t, p.Addr)
	wait := testbed.Go(t, func(testing.TB) { c.Handshake("/") })
	u := up.Next(t)
	id := u.AcceptHandshake().Header.Get("Tunnel")
	wait()

	// Three messages, one of them in fragments with a ping between.
	var in int
	for _, f := range []testbed.Frame{
		testbed.NewFrame(testbed.Text, "one"),
		{Opcode: testbed.Binary, Payload: []byte("tw")},
		testbed.NewFrame(testbed.Ping, "still there?"),
		{Opcode: testbed.Continuation, Payload: []byte("o")},
		{Opcode: testbed.Continuation, Fin: true},
		testbed.NewFrame(testbed.Text, ""),
		testbed.NewClose(4001, "bye"),
	} {
		c.WriteFrame(f)
		in += len(f.Bytes(true))
		u.ReadFrame()
	}
	var out int
	for _, f := range []testbed.Frame{
		testbed.NewFrame(testbed.Pong, "still there?"),
		testbed.NewFrame(testbed.Text, "answer"),
		testbed.NewClose(4002, ""),
	} {
		u.WriteFrame(f)
		out += len(f.Bytes(false))
		c.ReadFrame()
	}
	u.Close()
	c.ExpectEOF()
	c.Close()

	line := p.closedLine()
	expectFields(t, line, map[string]any{
		"tunnel":       id,
		"client_ip":    "127.0.0.1",
		"upstream":     up.Addr,
		"reason":       "client_closed",
		"closed_by":    "client",
		"close_code":   uint16(4001),
		"close_from":   "client",
		"bytes_in":     uint64(in),
		"bytes_out":    uint64(out),
		"messages_in":  uint64(3),
		"messages_out": uint64(1),
	})
	if id == "" {
		t.Error("the tunnel has no id")
	}
	if d, ok := line["duration"].(time.Duration); !ok || d <= 0 || d > time.Minute {
		t.Errorf("duration is %v", line["duration"])
	}
	eventually(t, "the tunnel is gone", func() bool { return process.live.Count() == 0 })
	if n := p.logs.FilterMessage("tunnel closed").Len(); n != 1 {
		t.Errorf("%d lines for one tunnel", n)
	}
}

func TestLineOfATunnelWithoutCloseHasNoCode(t *testing.T) {
	p, c, u := openTunnel(t, nil)
	c.Close()
	u.ExpectEOF()
	u.Close()
	line := p.closedLine()
	for _, name := range []string{"close_code", "close_from"} {
		if value, ok := line[name]; ok {
			t.Errorf("the line has %s %v", name, value)
		}
	}
}

func TestLevelFollowsTheReason(t *testing.T) {
	for _, test := range []struct {
		why  tunnel.Reason
		want zapcore.Level
	}{
		{tunnel.ClientClosed, zapcore.InfoLevel},
		{tunnel.ClientReset, zapcore.InfoLevel},
		{tunnel.ClientLost, zapcore.InfoLevel},
		{tunnel.ClientError, zapcore.InfoLevel},
		{tunnel.UpstreamClosed, zapcore.InfoLevel},
		{tunnel.UpstreamReset, zapcore.WarnLevel},
		{tunnel.UpstreamLost, zapcore.WarnLevel},
		{tunnel.UpstreamError, zapcore.WarnLevel},
		{tunnel.IdleTimeout, zapcore.InfoLevel},
		{tunnel.WriteTimeout, zapcore.InfoLevel},
		{tunnel.HalfCloseTimeout, zapcore.InfoLevel},
		{tunnel.MaxLifetime, zapcore.InfoLevel},
	} {
		core, logs := observer.New(zapcore.DebugLevel)
		r := &reporter{log: zap.New(core)}
		r.tunnelClosed(tunnel.Outcome{Reason: test.why, ClosedBy: test.why.ClosedBy()})
		if got := logs.All(); len(got) != 1 || got[0].Level != test.want {
			t.Errorf("%s is logged as %v, want level %v", test.why, got, test.want)
		}
	}
}

func TestTunnelsOfUnloadedHandlersAreLoggedByTheNewestOne(t *testing.T) {
	t.Cleanup(func() { expectNothingHeld(t) })
	up := testbed.NewUpstream(t, testbed.Echo)
	first, second, third := &Handler{Upstreams: upstreams(up.Addr)},
		&Handler{Upstreams: upstreams(up.Addr)}, &Handler{Upstreams: upstreams(up.Addr)}
	unloadFirst := load(t, first)
	p := serve(t, first)
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/")

	load(t, second)
	unloadThird := load(t, third)
	var logs [2]*observer.ObservedLogs
	for i, h := range []*Handler{second, third} {
		var core zapcore.Core
		core, logs[i] = observer.New(zapcore.DebugLevel)
		h.reporter.log = zap.New(core)
	}
	unloadFirst()
	unloadThird()
	c.CloseHandshake(1000)
	eventually(t, "the newest handler that is loaded has the line", func() bool {
		return logs[0].FilterMessage("tunnel closed").Len() == 1
	})
	if p.logs.FilterMessage("tunnel closed").Len()+logs[1].FilterMessage("tunnel closed").Len() != 0 {
		t.Error("an unloaded handler has a line")
	}
}

func TestReportersKnowWhatIsLoaded(t *testing.T) {
	var set reporterSet
	logs := []*zap.Logger{zap.NewNop(), zap.NewExample(), zap.NewNop()}
	var all []*reporter
	for _, log := range logs {
		all = append(all, set.add(log))
	}
	for i, r := range all {
		if got := set.logger(r); got != logs[i] {
			t.Errorf("reporter %d has another logger than its own", i)
		}
	}
	for _, step := range []struct {
		remove *reporter
		want   *zap.Logger // for the one removed
	}{
		{all[2], logs[1]},
		{all[2], logs[1]}, // again, which changes nothing
		{all[0], logs[1]},
	} {
		set.remove(step.remove)
		if got := set.logger(step.remove); got != step.want {
			t.Error("the tunnels of an unloaded handler are not logged by the newest one")
		}
	}
	set.remove(all[1])
	for i, r := range all {
		if r.log != nil {
			t.Errorf("reporter %d keeps its logger", i)
		}
		if set.logger(r) == nil {
			t.Errorf("reporter %d has no logger when nothing is loaded", i)
		}
	}
}

func TestLineOfAChangeIsShort(t *testing.T) {
	c := evict.Change{Name: "chat", Removed: []string{"one\u009b:1"}}
	for i := range 5000 {
		c.Added = append(c.Added, fmt.Sprintf("10.0.%d.%d:80", i/256, i%256))
	}
	core, logs := observer.New(zapcore.InfoLevel)
	logChanges(zap.New(core), []evict.Change{c})
	line := logs.All()[0].ContextMap()
	added, _ := line["added"].([]any)
	if len(added) != maxListed+1 || added[0] != "10.0.0.0:80" || added[maxListed] != "and 4980 more" {
		t.Errorf("added is %v", line["added"])
	}
	if got := fmt.Sprint(line["handler"], line["removed"]); got != `chat[one\u009b:1]` {
		t.Errorf("got %q", got)
	}
}

package told

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestProblemsOfAgents(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]Agent{
		"":         {Port: 9001},
		"port":     {},
		"port ":    {Port: -1},
		"port  ":   {Port: 65536},
		"interval": {Port: 1, Interval: -1},
		"timeout":  {Port: 1, Timeout: -1},
		// A number without unit is rather meant to be seconds.
		"interval ": {Port: 1, Interval: 5},
		"timeout ":  {Port: 1, Timeout: caddy.Duration(5)},
	} {
		field, text := a.Problem()
		for len(field) < len(want) {
			field += " "
		}
		if field != want || (text == "") != (want == "") {
			t.Errorf("of %+v the problem is %q, %q; want %q", a, field, text, want)
		}
	}
}

// attached has a pool with one upstream whose agent is heard, and returns what is logged
// when that has been.
func attached(t *testing.T, line string) (*upstream.Table, *observer.ObservedLogs) {
	t.Helper()
	up := testbed.NewUpstream(t, func(_ testing.TB, c *testbed.Conn) {
		c.Tolerate()
		c.Expect("about 127.0.0.1:1\n")
		c.Send(line)
	})
	core, logs := observer.New(zapcore.DebugLevel)
	said := make(chan struct{}, 1)
	hook := zap.Hooks(func(zapcore.Entry) error {
		select {
		case said <- struct{}{}:
		default:
		}
		return nil
	})
	table := upstream.NewTable(func(upstream.Change) {})
	p := upstream.NewPool(table)
	a := &Agent{Port: 7, Send: "about {http.reverse_proxy.active.target_upstream}\n"}
	check, err := a.Attach(p, Means{
		Dial: func(ctx context.Context, to upstream.Address) (net.Conn, error) {
			if to.HostPort != "127.0.0.1:7" {
				return nil, errors.New("another address: " + to.HostPort)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", up.Addr)
		},
		Table: table, Checkers: health.NewCheckers(), Events: new(events.Process), Logger: zap.New(core, hook),
		Asked: func(address string, answered bool) {
			if address != "127.0.0.1:1" || !answered {
				t.Errorf("counted is a question to %s, answered: %t", address, answered)
			}
		},
		OutOf: func(string, error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.AddFixed(&upstream.Server{Weight: 1}, upstream.Address{Network: "tcp", HostPort: "127.0.0.1:1", Hostname: "127.0.0.1", Port: "1"})
	p.AddFixed(&upstream.Server{Weight: 1}, upstream.Address{Network: "unix", HostPort: "/run/none"})
	check.Start()
	t.Cleanup(func() {
		p.Release()
		if held := table.Held(); held != (upstream.Held{}) {
			t.Errorf("held are %+v, want nothing", held)
		}
	})
	<-said
	return table, logs
}

func TestWhatAgentsSayIsLogged(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]struct {
		agent, reason, problem string
		level                  zapcore.Level
	}{
		"drain 50%\n":             {"drain 50%", "", "", zapcore.InfoLevel},
		"down # out of \x1b[2J\n": {"down", `out of \x1b[2J`, "", zapcore.InfoLevel},
		"up \x1b[2J\n":            {"up", "", `unknown word "\\x1b[2J"`, zapcore.WarnLevel},
	} {
		t.Run(want.agent, func(t *testing.T) {
			t.Parallel()
			table, logs := attached(t, line)
			fields, entry := logs.All()[0].ContextMap(), logs.All()[0].Entry
			if fields["agent"] != want.agent || entry.Level != want.level || fields["address"] != "127.0.0.1:1" ||
				want.reason != "" && fields["reason"] != want.reason || want.problem != "" && fields["error"] != want.problem {
				t.Errorf("logged is %v %v", entry, fields)
			}
			if info, _ := table.Info("127.0.0.1:1"); info.Agent != want.agent || info.AgentReason != want.reason || info.AgentError != want.problem {
				t.Errorf("shown is %+v", info)
			}
		})
	}
}

func TestReportsAreTakenIn(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	table := upstream.NewTable(func(upstream.Change) {})
	p := upstream.NewPool(table)
	r, err := new(LoadReport).Attach(p, table, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	p.AddFixed(&upstream.Server{Weight: 1}, upstream.Address{HostPort: "a:1"})
	defer p.Release()
	e := p.Fixed[0]
	r.Heard(e, http.Header{"Endpoint-Load-Metrics": {"TEXT cpu_utilization=0.5"}})
	r.Heard(e, http.Header{"Endpoint-Load-Metrics": {"nonsense"}})
	r.Heard(upstream.NewEndpoint(e.Server, e.Address), nil) // it stands nowhere
	(*Reports)(nil).Heard(e, nil)                           // nobody wants to know
	if info, _ := table.Info("a:1"); info.Load != 0.5 || !p.GoesByLoad {
		t.Errorf("the load is %v", info.Load)
	}
	if logs.Len() != 1 {
		t.Errorf("logged is %v, want what is wrong with a report", logs.All())
	}
}

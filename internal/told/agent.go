package told

import (
	"context"
	"encoding/json"
	"net"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Means are what a handler and the process give to ask agents.
type Means struct {
	// Dial connects to an address, without TLS and the PROXY protocol.
	Dial func(ctx context.Context, to upstream.Address) (net.Conn, error)
	// Transport is the configuration by which that is done.
	Transport string
	Table     *upstream.Table
	Checkers  *health.Checkers
	Events    *events.Process
	Logger    *zap.Logger
	// Asked is told that an agent was asked, and whether it has answered.
	Asked func(address string, answered bool)
	// OutOf is told that something of this machine is used up.
	OutOf func(lack string, err error)
}

// Attach has the agents of a pool's upstreams asked, when what it returns is started. The
// configuration has no problem. Upstreams that have no port have no agent.
func (a *Agent) Attach(p *upstream.Pool, m Means) (*health.Check, error) {
	c, err := a.check(m)
	if err != nil {
		return nil, err
	}
	p.Joins = append(p.Joins, func(e *upstream.Endpoint) {
		if _, err := a.Target(e.Address); err == nil {
			c.Join(e)
		}
	})
	p.Leaves = append(p.Leaves, c.Leave)
	return c, nil
}

func (a *Agent) check(m Means) (*health.Check, error) {
	full := a.withDefaults()
	key, err := json.Marshal([]any{"agent", full, m.Transport})
	if err != nil {
		return nil, err
	}
	l := &listener{Means: m, settings: full}
	return health.NewCheck(health.Config{
		Key:      string(key),
		Interval: time.Duration(full.Interval),
		Ask:      l.ask,
		Table:    m.Table,
		Checkers: m.Checkers,
		Observer: l,
	}), nil
}

// listener asks agents, and tells operators what they say.
type listener struct {
	Means

	settings Agent
}

// ask returns what asks the agent of an endpoint.
func (l *listener) ask(e *upstream.Endpoint) func(context.Context) (health.Answer, error) {
	target, err := l.settings.Target(e.Address)
	if err != nil {
		return func(context.Context) (health.Answer, error) { return health.Answer{}, err }
	}
	repl := caddy.NewReplacer()
	repl.Set("http.reverse_proxy.active.target_upstream", e.Key())
	send := repl.ReplaceKnown(l.settings.Send, "")
	return func(ctx context.Context) (health.Answer, error) {
		one := health.Probe{
			Timeout: time.Duration(l.settings.Timeout),
			Connect: func(ctx context.Context) (net.Conn, error) { return l.Dial(ctx, target) },
			Send:    send,
		}
		return one.Ask(ctx)
	}
}

// Failed, like what follows, implements health.Observer.
func (l *listener) Failed(address string, err error) {
	if line := l.Logger.Check(zapcore.DebugLevel, "an agent has not answered"); line != nil {
		line.Write(zap.String("address", address), zap.String("error", printable.Text(err.Error())))
	}
}

// Said writes a line: what holds now, and what was odd about it.
func (l *listener) Said(address string, before, now upstream.Word, problem string) {
	fields := []zap.Field{zap.String("address", address), zap.Stringer("agent", now), zap.Stringer("before", before)}
	if now.Reason != "" {
		fields = append(fields, zap.String("reason", now.Reason))
	}
	level := zapcore.InfoLevel
	if problem != "" {
		fields = append(fields, zap.String("error", problem))
		level = zapcore.WarnLevel
	}
	if line := l.Logger.Check(level, "the agent of an upstream says something else"); line != nil {
		line.Write(fields...)
	}
	if before != now {
		l.Events.Emit(events.AgentSaid, events.Data{
			"address": printable.Text(address), "from": before.String(), "to": now.String(), "reason": now.Reason,
		})
	}
}

// OutOf writes a line now and then.
func (l *listener) OutOf(lack string, err error) { l.Means.OutOf(lack, err) }

// Probed has it counted.
func (l *listener) Probed(address string, _ time.Duration, err error) { l.Asked(address, err == nil) }

// The rest is for checks that judge.

func (*listener) Down(string, error)   {}
func (*listener) Up(string)            {}
func (*listener) DownOtherwise(string) {}

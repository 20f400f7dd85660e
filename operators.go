package websocketproxy

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/cluster"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// firstTimeout is how long, when the process starts, is waited for the states
// that are stored.
const firstTimeout = time.Second

// stateLog writes what happens to states to the log of a configuration, or to that of
// the process.
type stateLog struct {
	log *zap.Logger
}

func (l stateLog) logger() *zap.Logger {
	if l.log == nil {
		return caddy.Log().Named(statesAppID)
	}
	return l.log
}

// Found writes one line for all.
func (l stateLog) Found(states map[string]upstream.State) {
	var list []string
	for address, s := range states {
		item := address + " " + s.State + " since " + s.At.Format(time.RFC3339)
		if s.By != "" {
			item += " by " + s.By
		}
		if !s.Expires.IsZero() {
			item += " until " + s.Expires.Format(time.RFC3339)
		}
		list = append(list, item)
	}
	l.logger().Info("upstream states found", zap.Strings("states", shown(list)))
}

// Changed writes a line for each upstream.
func (l stateLog) Changed(c cluster.Change) {
	fields := []zap.Field{
		zap.String("upstream", printable.Text(c.Address)),
		zap.String("state", c.State.State),
	}
	if c.State.By != "" {
		fields = append(fields, zap.String("by", printable.Text(c.State.By)))
	}
	if !c.State.At.IsZero() {
		fields = append(fields, zap.Time("at", c.State.At))
	}
	if !c.State.Expires.IsZero() {
		fields = append(fields, zap.Time("expires", c.State.Expires))
	}
	l.logger().Info("upstream state changed", append(fields, zap.String("cause", c.Cause.String()))...)
	process.events.Emit(events.UpstreamStateChanged, events.Data{
		"address": printable.Text(c.Address), "from": c.From, "to": c.State.State,
		"by": printable.Text(c.State.By), "cause": c.Cause.String(),
	})
	if c.State.IsSet() && process.table.TakeEmpty(c.Address) {
		process.emptied(c.Address)
	}
}

// Exchanged counts.
func (l stateLog) Exchanged(err error) { process.metrics.Synced(err) }

// Fails writes a warning.
func (l stateLog) Fails(err error) {
	l.logger().Warn("the storage of upstream states fails; the last known states hold, and are stored when it works again",
		failure(err))
}

// Works takes the warning back.
func (l stateLog) Works() {
	l.logger().Info("the storage works again; states of upstreams are stored and shared")
}

// Ahead writes a warning.
func (l stateLog) Ahead(addresses []string) {
	l.logger().Warn("times in the storage of upstream states lie too far ahead and are ignored; "+
		"is a clock wrong here or at another instance?", zap.Strings("upstreams", shown(addresses)))
}

// shown returns a list as it is shown.
func shown(list []string) []string {
	all := make([]string, len(list))
	for i, item := range list {
		all[i] = printable.Text(item)
	}
	slices.Sort(all)
	return all
}

// thisInstance returns the id of this instance, and the host's name, which is empty if it
// has none: it has that in common with itself.
func thisInstance(ctx context.Context) (id, host string, err error) {
	uuid, err := instanceID(ctx)
	if err != nil {
		return "", "", err
	}
	host, _ = os.Hostname()
	return uuid.String(), host, nil
}

// instanceID returns the id of this instance. When there is none yet, others in
// the process make one too, and the last one counts: so for a moment it may be
// incomplete, and then another one. That is why it is not remembered.
func instanceID(ctx context.Context) (id fmt.Stringer, err error) {
	for range 5 {
		if id, err = caddy.InstanceID(); err == nil {
			return id, nil
		}
		select {
		case <-ctx.Done():
			return id, err
		case <-time.After(50 * time.Millisecond):
		}
	}
	return id, err
}

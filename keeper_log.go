package websocketproxy

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Where a state comes from, for the log.
const (
	setHere      = "set here"
	setElsewhere = "set at another instance"
)

// linesLocked returns the fields of a line for each upstream whose state is
// another one than it was. Those that are found when the process starts share
// one.
func (k *keeper) linesLocked(from string, was operatorStates) (lines [][]zap.Field) {
	if !k.found && from == setElsewhere {
		return nil
	}
	for address, s := range k.applied {
		if !s.Equal(was[address]) {
			lines = append(lines, append(stateFields(address, s), zap.String("cause", from)))
		}
	}
	for address := range was {
		if _, still := k.applied[address]; still {
			continue
		}
		s, said := k.known[address]
		cause := from
		switch {
		case !said:
			cause = "no configuration has had it for " + dropAfter.String()
		case s.Closes():
			cause = "expired"
		}
		s.State = upstream.Ready
		lines = append(lines, append(stateFields(address, s), zap.String("cause", cause)))
	}
	return lines
}

// stateFields describe a state in the log.
func stateFields(address string, s upstream.State) []zap.Field {
	fields := []zap.Field{zap.String("upstream", printable.Text(address)), zap.String("state", s.State)}
	if s.By != "" {
		fields = append(fields, zap.String("by", printable.Text(s.By)))
	}
	if !s.At.IsZero() {
		fields = append(fields, zap.Time("at", s.At))
	}
	if !s.Expires.IsZero() {
		fields = append(fields, zap.Time("expires", s.Expires))
	}
	return fields
}

// foundStates notes that the states of a storage are known. The first time, it
// logs them.
func (k *keeper) foundStates() {
	k.mu.Lock()
	isFirst, all, log := !k.found, k.applied, k.logLocked()
	k.found = true
	k.mu.Unlock()
	if !isFirst || len(all) == 0 {
		return
	}
	var list []string
	for address, s := range all {
		item := address + " " + s.State + " since " + s.At.Format(time.RFC3339)
		if s.By != "" {
			item += " by " + s.By
		}
		if !s.Expires.IsZero() {
			item += " until " + s.Expires.Format(time.RFC3339)
		}
		list = append(list, printable.Text(item))
	}
	slices.Sort(list)
	log.Info("upstream states found", zap.Strings("states", list))
}

// logLocked returns the log of the newest configuration.
func (k *keeper) logLocked() *zap.Logger {
	if n := len(k.sharers); n > 0 {
		return k.sharers[n-1].log
	}
	return caddy.Log().Named(statesAppID)
}

package websocketproxy

import (
	"fmt"
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

// maxListed bounds how many upstreams a line names.
const maxListed = 20

// poolChange is what a reload has changed in the pools with a name.
type poolChange struct {
	name           string
	added, removed []string
}

// changesLocked returns what the reload has changed that unloads p, to whose
// configuration next is the new one. Pools are told apart by the names of their
// handlers: that is how operators know them, and nothing else says what follows
// what if all upstreams are replaced. It returns something once for each
// configuration, as the first of its pools goes, and nothing for one that
// never was in force.
func (s *poolSet) changesLocked(p *loadedPool, next []*loadedPool) []poolChange {
	if p.told || !p.started {
		return nil
	}
	var old []*loadedPool
	for _, other := range s.all {
		if other.config == p.config {
			other.told = true
			old = append(old, other)
		}
	}
	was, is := upstreamsByName(old), upstreamsByName(next)
	names := make(map[string]bool)
	for name := range was {
		names[name] = true
	}
	for name := range is {
		names[name] = true
	}
	var changes []poolChange
	for _, name := range slices.Sorted(maps.Keys(names)) {
		added, removed := lacking(is[name], was[name]), lacking(was[name], is[name])
		if len(added) > 0 || len(removed) > 0 {
			changes = append(changes, poolChange{name, added, removed})
		}
	}
	return changes
}

// upstreamsByName returns what the pools of each name have: what tells their
// upstreams and sources apart, and how that is shown.
func upstreamsByName(pools []*loadedPool) map[string]map[string]string {
	all := make(map[string]map[string]string)
	for _, p := range pools {
		if all[p.name] == nil {
			all[p.name] = make(map[string]string)
		}
		maps.Copy(all[p.name], p.shown)
	}
	return all
}

// lacking returns what is among some and not among others, sorted.
func lacking(some, others map[string]string) (rest []string) {
	for key, shown := range some {
		if _, found := others[key]; !found {
			rest = append(rest, shown)
		}
	}
	slices.Sort(rest)
	return rest
}

// log writes the line of a change.
func (c *poolChange) log(log *zap.Logger) {
	var fields []zap.Field
	if c.name != "" {
		fields = append(fields, zap.String("handler", printable.Text(c.name)))
	}
	log.Info("upstreams changed by a reload",
		append(fields, zap.Strings("added", listed(c.added)), zap.Strings("removed", listed(c.removed)))...)
}

// listed is a list as it may be shown: the first ones, and how many more there
// are.
func listed(all []string) []string {
	shown := make([]string, 0, min(len(all), maxListed+1))
	for _, s := range all[:min(len(all), maxListed)] {
		shown = append(shown, printable.Text(s))
	}
	if more := len(all) - maxListed; more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return shown
}

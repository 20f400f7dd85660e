package evict

import (
	"maps"
	"slices"
)

// Change is what a reload has changed in the pools with a name.
type Change struct {
	Name           string
	Added, Removed []string
}

// changesLocked returns what the reload has changed that unloads a configuration, to
// which newer are the new ones. Pools are told apart by the names of their
// handlers: that is how operators know them, and nothing else says what follows
// what if all upstreams are replaced. It returns something once, as the first of its
// pools goes, and nothing for one that never was in force.
func changesLocked(old *generation, newer []*generation) (changes []Change) {
	if old.told || !old.started {
		return nil
	}
	old.told = true
	was, is := upstreamsByName(old), upstreamsByName(newer...)
	names := make(map[string]bool)
	for name := range was {
		names[name] = true
	}
	for name := range is {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		added, removed := lacking(is[name], was[name]), lacking(was[name], is[name])
		if len(added) > 0 || len(removed) > 0 {
			changes = append(changes, Change{name, added, removed})
		}
	}
	return changes
}

// upstreamsByName returns what the pools of each name have: what tells their
// upstreams and sources apart, and how that is shown.
func upstreamsByName(generations ...*generation) map[string]map[string]string {
	all := make(map[string]map[string]string)
	for _, g := range generations {
		for _, p := range g.pools {
			if all[p.name] == nil {
				all[p.name] = make(map[string]string)
			}
			maps.Copy(all[p.name], p.Shown)
		}
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

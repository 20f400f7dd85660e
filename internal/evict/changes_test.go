package evict

import (
	"slices"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestReloadTellsWhatItChanges(t *testing.T) {
	load := func(e *Evictor, unloaded chan struct{}, byName map[string][]string) (all []*Pool) {
		for name, addresses := range byName {
			c := Config{Name: name, Unloaded: unloaded, Pool: new(upstream.Pool), Policy: new(Policy), Shown: make(map[string]string)}
			for _, address := range addresses {
				c.Shown[address] = address
			}
			all = append(all, e.Add(c))
		}
		return all
	}
	for name, test := range map[string]struct {
		was, is map[string][]string
		want    []Change
	}{
		"nothing":     {map[string][]string{"a": {"1", "2"}}, map[string][]string{"a": {"2", "1"}}, nil},
		"one is new":  {map[string][]string{"a": {"1"}}, map[string][]string{"a": {"2", "1"}}, []Change{{"a", []string{"2"}, nil}}},
		"one is gone": {map[string][]string{"a": {"1", "2"}}, map[string][]string{"a": {"2"}}, []Change{{"a", nil, []string{"1"}}}},
		"all others": {
			map[string][]string{"a": {"1", "2"}},
			map[string][]string{"a": {"3", "4"}},
			[]Change{{"a", []string{"3", "4"}, []string{"1", "2"}}},
		},
		"two pools": {
			map[string][]string{"": {"1"}, "b": {"2"}},
			map[string][]string{"": {"2"}, "b": {"1"}},
			[]Change{{"", []string{"2"}, []string{"1"}}, {"b", []string{"1"}, []string{"2"}}},
		},
		"a pool is new":      {map[string][]string{"a": {"1"}}, map[string][]string{"a": {"1"}, "b": {"2"}}, []Change{{"b", []string{"2"}, nil}}},
		"a pool is gone":     {map[string][]string{"a": {"1"}, "b": {"2"}}, map[string][]string{"a": {"1"}}, []Change{{"b", nil, []string{"2"}}}},
		"all pools are gone": {map[string][]string{"a": {"1"}}, nil, []Change{{"a", nil, []string{"1"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			old, config := make(chan struct{}), make(chan struct{})
			e := New(upstream.NewTable(nil), nil)
			before := load(e, old, test.was)
			for _, p := range before {
				e.Start(p)
			}
			after := load(e, config, test.is)
			var got []Change
			for _, p := range before {
				got = append(got, e.Remove(p)...)
			}
			if !slices.EqualFunc(got, test.want, func(a, b Change) bool {
				return a.Name == b.Name && slices.Equal(a.Added, b.Added) && slices.Equal(a.Removed, b.Removed)
			}) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			// Those of a configuration that fails to load go without having been in force.
			for _, p := range after {
				if changes := e.Remove(p); len(changes) > 0 {
					t.Errorf("a configuration that never was in force has changed %v", changes)
				}
			}
		})
	}
}

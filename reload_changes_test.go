package websocketproxy

import (
	"fmt"
	"slices"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestReloadTellsWhatItChanges(t *testing.T) {
	pools := func(config chan struct{}, byName map[string][]string) (all []*loadedPool) {
		for name, addresses := range byName {
			p := &loadedPool{lineage: &lineage{name: name}, config: config, pool: new(upstream.Pool), shown: make(map[string]string)}
			for _, address := range addresses {
				p.shown[address] = address
			}
			all = append(all, p)
		}
		return all
	}
	for name, test := range map[string]struct {
		was, is map[string][]string
		want    []poolChange
	}{
		"nothing":     {map[string][]string{"a": {"1", "2"}}, map[string][]string{"a": {"2", "1"}}, nil},
		"one is new":  {map[string][]string{"a": {"1"}}, map[string][]string{"a": {"2", "1"}}, []poolChange{{"a", []string{"2"}, nil}}},
		"one is gone": {map[string][]string{"a": {"1", "2"}}, map[string][]string{"a": {"2"}}, []poolChange{{"a", nil, []string{"1"}}}},
		"all others": {
			map[string][]string{"a": {"1", "2"}},
			map[string][]string{"a": {"3", "4"}},
			[]poolChange{{"a", []string{"3", "4"}, []string{"1", "2"}}},
		},
		"two pools": {
			map[string][]string{"": {"1"}, "b": {"2"}},
			map[string][]string{"": {"2"}, "b": {"1"}},
			[]poolChange{{"", []string{"2"}, []string{"1"}}, {"b", []string{"1"}, []string{"2"}}},
		},
		"a pool is new":      {map[string][]string{"a": {"1"}}, map[string][]string{"a": {"1"}, "b": {"2"}}, []poolChange{{"b", []string{"2"}, nil}}},
		"a pool is gone":     {map[string][]string{"a": {"1"}, "b": {"2"}}, map[string][]string{"a": {"1"}}, []poolChange{{"b", nil, []string{"2"}}}},
		"all pools are gone": {map[string][]string{"a": {"1"}}, nil, []poolChange{{"a", nil, []string{"1"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			old, config := make(chan struct{}), make(chan struct{})
			before, after := pools(old, test.was), pools(config, test.is)
			set := new(poolSet)
			for _, p := range before {
				set.add(p)
				set.join(p)
			}
			for _, p := range after {
				set.add(p)
			}
			var got []poolChange
			for _, p := range before {
				got = append(got, set.remove(p)...)
			}
			if !slices.EqualFunc(got, test.want, func(a, b poolChange) bool {
				return a.name == b.name && slices.Equal(a.added, b.added) && slices.Equal(a.removed, b.removed)
			}) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			// Those of a configuration that fails to load go without having been in force.
			for _, p := range after {
				if changes := set.remove(p); len(changes) > 0 {
					t.Errorf("a configuration that never was in force has changed %v", changes)
				}
			}
		})
	}
}

func TestLineOfAChangeIsShort(t *testing.T) {
	c := poolChange{name: "chat", removed: []string{"one\u009b:1"}}
	for i := range 5000 {
		c.added = append(c.added, fmt.Sprintf("10.0.%d.%d:80", i/256, i%256))
	}
	core, logs := observer.New(zapcore.InfoLevel)
	c.log(zap.New(core))
	line := logs.All()[0].ContextMap()
	added, _ := line["added"].([]any)
	if len(added) != maxListed+1 || added[0] != "10.0.0.0:80" || added[maxListed] != "and 4980 more" {
		t.Errorf("added is %v", line["added"])
	}
	if got := fmt.Sprint(line["handler"], line["removed"]); got != `chat[one\u009b:1]` {
		t.Errorf("got %q", got)
	}
}

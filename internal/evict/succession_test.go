package evict

import (
	"slices"
	"testing"
)

func TestMatch(t *testing.T) {
	pool := func(name string, rebalances bool, upstreams ...string) *lineage {
		return &lineage{name: name, rebalances: rebalances, upstreams: upstreams}
	}
	for name, test := range map[string]struct {
		of     *lineage
		loaded []*lineage
		want   int
	}{
		"none is loaded":          {pool("", true, "a"), nil, -1},
		"the same":                {pool("", true, "a"), []*lineage{pool("", true, "a")}, 0},
		"one more":                {pool("", true, "a"), []*lineage{pool("", true, "a", "b")}, 0},
		"nothing in common":       {pool("", true, "a"), []*lineage{pool("", true, "b")}, -1},
		"another name":            {pool("", true, "a"), []*lineage{pool("x", true, "a")}, -1},
		"the name decides":        {pool("x", true, "a", "b"), []*lineage{pool("", true, "a", "b"), pool("x", true, "b")}, 1},
		"the most in common":      {pool("", true, "a", "b"), []*lineage{pool("", true, "a"), pool("", true, "a", "b", "c")}, 1},
		"then the fewest others":  {pool("", true, "a", "b"), []*lineage{pool("", true, "a", "b", "c"), pool("", true, "a", "b")}, 1},
		"then the same setting":   {pool("", false, "a"), []*lineage{pool("", true, "a"), pool("", false, "a")}, 1},
		"of alike ones the first": {pool("", true, "a"), []*lineage{pool("", true, "a"), pool("", true, "a")}, 0},
		"unknown":                 {nil, []*lineage{pool("", true, "a")}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			config := new(generation)
			for _, l := range test.loaded {
				config.pools = append(config.pools, &Pool{lineage: l})
			}
			if got := slices.Index(config.pools, test.of.matchLocked(config)); got != test.want {
				t.Errorf("matched %d, want %d", got, test.want)
			}
		})
	}
}

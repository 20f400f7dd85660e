package main

import (
	"math"
	"testing"
)

func TestGoalIsJudgedByMedians(t *testing.T) {
	values := map[string][]float64{
		ourName:     {9, 4, 5},
		stockName:   {10},
		haproxyName: {math.NaN(), 4},
		"zero":      {0},
		"less":      {-1},
		"broken":    {math.NaN()},
	}
	tests := map[string]struct {
		goal goal
		want verdict
	}{
		"half of a peer":              {goal{peer: stockName, limit: 0.5}, met},
		"more than that":              {goal{peer: stockName, limit: 0.49}, missed},
		"must stay below":             {goal{peer: stockName, limit: 0.5, below: true}, missed},
		"repetition without a number": {goal{peer: haproxyName, limit: 1.2}, missed},
		"number alone":                {goal{limit: 5}, met},
		"smaller number":              {goal{limit: 4}, missed},
		"nothing to divide by":        {goal{peer: "zero", limit: 1}, unknown},
		"less than nothing":           {goal{peer: "less", limit: 1}, unknown},
		"peer that can't":             {goal{peer: "broken", limit: 1}, unknown},
		"peer that wasn't there":      {goal{peer: "nobody", limit: 1}, unknown},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tc.goal.judge(values); got != tc.want {
				t.Errorf("%v: got %q, want %q", tc.goal, got, tc.want)
			}
		})
	}
}

func TestGoalIsJudgedAsPrinted(t *testing.T) {
	for _, c := range []struct {
		ours, limit float64
		want        verdict
	}{
		{2.0003, 2, met},
		{2.004, 2, met},
		{2.006, 2, missed},
		{22.04, 22, met}, // printed with one digit behind the point
		{22.06, 22, missed},
		{0.03004, 0.03, met},
		{0.0302, 0.03, missed},
	} {
		if got := (goal{limit: c.limit}).judge(map[string][]float64{ourName: {c.ours}}); got != c.want {
			t.Errorf("%v, at most %v: got %q, want %q", c.ours, c.limit, got, c.want)
		}
	}
}

func TestGoalsTellWhatBecameOfThem(t *testing.T) {
	values := map[string][]float64{ourName: {6}, stockName: {10}}
	list := []goal{{peer: stockName, limit: 0.5}, {limit: 7, below: true}, {peer: haproxyName, limit: 2}}
	want := "≤ 0.5 × reverse_proxy: **missed**, < 7: met, ≤ 2 × HAProxy: not measured"
	if got := formatGoals(list, values); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := formatGoals(nil, values); got != "–" {
		t.Errorf("got %q without a goal", got)
	}
	all := map[string][]goal{"row": list, "row that isn't measured": list}
	if got, want := summary(all, results{"row": values}), "1 met, 1 missed, 1 not measured"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A renamed row or peer would lose its goals without notice.
func TestEveryGoalIsAboutARowAndAPeerOfADefaultRun(t *testing.T) {
	o, err := parseFlags(nil)
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]bool)
	for _, m := range append(allMeasurements(o.scale), stormMeasurements(9000)...) {
		for _, r := range m.rows {
			rows[r.name] = true
		}
	}
	peers := map[string]bool{"": true}
	for _, p := range allPeers(options{caddy: "caddy", floor: "floor"}) {
		peers[p.name] = true
	}
	for name, list := range goals {
		if !rows[name] {
			t.Errorf("no row is called %q", name)
		}
		for _, g := range list {
			if !peers[g.peer] {
				t.Errorf("%s: no peer is called %q", name, g.peer)
			}
		}
	}
}

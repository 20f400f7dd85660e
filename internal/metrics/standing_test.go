package metrics

import (
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestStatusOfWhatOperatorsSay(t *testing.T) {
	for state, want := range map[string]Status{
		upstream.Ready: Usable, upstream.Drain: Drain, upstream.Maint: Maint, upstream.Evict: Evict,
	} {
		t.Run(state, func(t *testing.T) {
			table := upstream.NewTable(func(upstream.Change) {})
			p := upstream.NewPool(table)
			p.AddFixed(&upstream.Server{Weight: 1}, upstream.Address{HostPort: "a:1"})
			defer p.Release()
			table.SetStates(1, map[string]upstream.State{"a:1": {State: state, At: time.Now()}})
			got := StandingsOf(p, nil)
			if len(got) != 1 || got[0].Status != want || got[0].State != state {
				t.Errorf("it stands %+v, want %s", got, want)
			}
		})
	}
}

// standingOf is how the upstream of a pool stands to which something happens. It has an agent,
// and is doubtful by the first word that speaks against it.
func standingOf(t *testing.T, happens func(*upstream.Table, *upstream.Endpoint)) Standing {
	t.Helper()
	table := upstream.NewTable(func(upstream.Change) {})
	p := upstream.NewPool(table)
	p.Passive = upstream.FailureLimits{Duration: time.Minute, Max: 1}
	p.Joins = append(p.Joins, func(e *upstream.Endpoint) { table.Heed(e, "agent") })
	p.Leaves = append(p.Leaves, table.Unheed)
	p.AddFixed(&upstream.Server{Weight: 4}, upstream.Address{HostPort: "a:1"})
	defer p.Release()
	happens(table, p.Fixed[0])
	got := StandingsOf(p, nil)
	if len(got) != 1 {
		t.Fatalf("%d stand, want 1", len(got))
	}
	return got[0]
}

func TestStatusOfWhatAnAgentSays(t *testing.T) {
	share := func(n int) upstream.Amount { return upstream.Amount{Said: true, N: n} }
	for name, tc := range map[string]struct {
		word   upstream.Word
		want   Status
		weight float64 // 4: what is configured
		limit  int
	}{
		"nothing":              {upstream.Word{}, Usable, 4, 0},
		"up":                   {upstream.Word{Health: "up"}, Usable, 4, 0},
		"down":                 {upstream.Word{Health: "down"}, Down, 4, 0},
		"fail":                 {upstream.Word{Health: "fail"}, Down, 4, 0},
		"stopped":              {upstream.Word{Health: "stopped"}, Down, 4, 0},
		"drain":                {upstream.Word{State: "drain"}, Drain, 4, 0},
		"maint":                {upstream.Word{State: "maint"}, Maint, 4, 0},
		"maint and down":       {upstream.Word{State: "maint", Health: "down"}, Maint, 4, 0},
		"ready again":          {upstream.Word{State: "ready"}, Usable, 4, 0},
		"half of its weight":   {upstream.Word{Weight: share(50)}, Usable, 2, 0},
		"no weight":            {upstream.Word{Weight: share(0)}, Drain, 0, 0},
		"how much it may have": {upstream.Word{Most: share(7)}, Usable, 4, 7},
	} {
		t.Run(name, func(t *testing.T) {
			got := standingOf(t, func(table *upstream.Table, e *upstream.Endpoint) { table.Hear(e.Agent, tc.word, "") })
			if got.Status != tc.want || got.Weight != tc.weight || got.Limit != tc.limit {
				t.Errorf("it stands %+v, want %s, weight %v, limit %d", got, tc.want, tc.weight, tc.limit)
			}
			if got.Reweighed != (tc.weight != 4) {
				t.Errorf("that it weighs what is not configured is said to be %v", got.Reweighed)
			}
			if got.State != upstream.Ready {
				t.Errorf("an operator is said to have said %q", got.State)
			}
		})
	}
}

func TestStatusOfADoubt(t *testing.T) {
	got := standingOf(t, func(table *upstream.Table, e *upstream.Endpoint) {
		if !table.Convict(e.Failures) {
			t.Fatal("it was doubtful before")
		}
	})
	if got.Status != Doubtful {
		t.Errorf("it is %s, want doubtful", got.Status)
	}
	got = standingOf(t, func(table *upstream.Table, e *upstream.Endpoint) {
		table.Convict(e.Failures)
		table.Hear(e.Agent, upstream.Word{State: upstream.Drain}, "")
	})
	if got.Status != Drain {
		t.Errorf("what its agent drains is %s, want drain", got.Status)
	}
}

package tunnel

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unique"
)

func TestLabelsOfOneTunnel(t *testing.T) {
	if l := NewLabels(maps.All(map[string]string{"user": ""})); l != nil {
		t.Errorf("without a value there are the labels %v", slices.Collect(l.All()))
	}
	var none *Labels
	if got := none.Get("user"); got != "" || len(slices.Collect(none.All())) != 0 {
		t.Errorf("no labels have the value %q", got)
	}
	l := NewLabels(maps.All(map[string]string{"user": "a\x1b[2Jb"}))
	if got, want := l.Get("user"), `a\x1b[2Jb`; got != want {
		t.Errorf("the value is %q, want %q", got, want)
	}
	if got := l.Get("room"); got != "" {
		t.Errorf("a label that it does not have is %q", got)
	}
}

// Nobody is renewed for somebody else, who has a longer value, or one that looks alike.
func TestOnlyTheSameValueIsRenewed(t *testing.T) {
	for name, test := range map[string]struct {
		has, asks string
		want      int
	}{
		"the same":              {"alice", "alice", 1},
		"with controls":         {"a\nb", "a\nb", 1},
		"looks like controls":   {"a\nb", `a\nb`, 0},
		"as it is shown":        {"a\nb", `a\x0ab`, 0},
		"the longest":           {strings.Repeat("x", MaxLabelValue), strings.Repeat("x", MaxLabelValue), 1},
		"what a longer one has": {strings.Repeat("x", MaxLabelValue+1), strings.Repeat("x", MaxLabelValue), 0},
		"as a longer one looks": {strings.Repeat("x", MaxLabelValue+1), strings.Repeat("x", MaxLabelValue-3) + "…", 0},
		"the longer one":        {strings.Repeat("x", MaxLabelValue+1), strings.Repeat("x", MaxLabelValue+1), 0},
	} {
		t.Run(name, func(t *testing.T) {
			live := NewRegistry(nil)
			held := registered(live)
			held.Labels = NewLabels(maps.All(map[string]string{"user": test.has}))
			held.deadlines.Store(&[]Deadline{{At: live.Now().Add(time.Minute), Reason: Expired}})
			live.add(held)
			defer live.remove(held)
			if got := live.Renew(map[string]string{"user": test.asks}, time.Hour, 0); got != test.want {
				t.Errorf("%d are renewed, want %d", got, test.want)
			}
		})
	}
}

// TestTunnelsAreFoundByTheirLabels has tunnels come and go in any order.
func TestTunnelsAreFoundByTheirLabels(t *testing.T) {
	live := NewRegistry(nil)
	want := make(map[Label]map[*Tunnel]bool)
	note := func(held *Tunnel, is bool) {
		for l := range held.Labels.All() {
			if want[l] == nil {
				want[l] = make(map[*Tunnel]bool)
			}
			if want[l][held] = true; !is {
				delete(want[l], held)
			}
		}
	}
	var all []*Tunnel
	for range 3000 {
		if len(all) > 0 && rand.IntN(5) < 2 {
			i := rand.IntN(len(all))
			live.remove(all[i])
			note(all[i], false)
			all = slices.Delete(all, i, i+1)
			continue
		}
		held := registered(live)
		held.Labels = NewLabels(func(yield func(string, string) bool) {
			_ = yield("tenant", "acme") && yield("user", fmt.Sprint(rand.IntN(30))) && yield("room", fmt.Sprint(rand.IntN(3)))
		})
		live.add(held)
		note(held, true)
		all = append(all, held)
	}
	for l, tunnels := range want {
		got := live.Labelled(l)
		if len(got) != len(tunnels) || slices.ContainsFunc(got, func(held *Tunnel) bool { return !tunnels[held] }) {
			t.Errorf("%d tunnels have %v, want %d, or others", len(got), l, len(tunnels))
		}
	}
	tenant, user, nobody := Label{"tenant", "acme"}, Label{"user", "7"}, Label{"user", "nobody"}
	if got := len(live.Labelled(tenant, user)); got != len(want[user]) {
		t.Errorf("%d tunnels may be those of a tenant and a user, want the user's %d", got, len(want[user]))
	}
	if got := len(live.Labelled(tenant, nobody)) + len(live.Labelled()); got != 0 {
		t.Errorf("%d tunnels may be those of nobody", got)
	}
	for _, held := range all {
		live.remove(held)
	}
	if n := len(live.labels.tunnels); n != 0 {
		t.Errorf("%d labels are left without tunnels", n)
	}
}

func TestEqualLabelsShareTheirMemory(t *testing.T) {
	one, two := NewLabels(maps.All(map[string]string{"room": "r"})), NewLabels(maps.All(map[string]string{"room": "r"}))
	if one.all[0] != two.all[0] || one.all[0] != unique.Make(Label{"room", "r"}) {
		t.Error("equal labels are not the same one")
	}
}

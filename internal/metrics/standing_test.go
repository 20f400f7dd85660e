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

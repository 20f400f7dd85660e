package cli

import (
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestWhatIsSaidOfStates(t *testing.T) {
	for state, want := range map[string]string{
		upstream.Ready:   "a:1 gets new tunnels, 3 open",
		upstream.Drain:   "a:1 gets no newcomers, 3 open",
		upstream.Maint:   "a:1 gets no new tunnels, 3 open",
		upstream.Evict:   "a:1 is being emptied, 3 left",
		upstream.Removed: "a:1 is in no loaded configuration, so it gets no new tunnels, 3 open",
	} {
		if got := sayState(&admin.Upstream{Address: "a:1", State: state, Tunnels: 3}); got != want {
			t.Errorf("of %s it says %q, want %q", state, got, want)
		}
	}
}

func TestEachStateHasACommand(t *testing.T) {
	for state, flags := range map[string]string{
		upstream.Ready: "", upstream.Drain: "for", upstream.Maint: "for", upstream.Evict: "for period no-wait",
	} {
		cmd := stateCommand(state)
		if cmd.Name() != state || cmd.Short == "" || cmd.Long == "" || cmd.RunE == nil {
			t.Errorf("the command of %s is %q (%q)", state, cmd.Use, cmd.Short)
		}
		for _, flag := range []string{"for", "period", "no-wait"} {
			if got, want := cmd.Flags().Lookup(flag) != nil, strings.Contains(flags, flag); got != want {
				t.Errorf("%s has --%s: %t, want %t", state, flag, got, want)
			}
		}
	}
}

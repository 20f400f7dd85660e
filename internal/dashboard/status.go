package dashboard

import (
	"slices"
	"strings"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// What an upstream is to a handler: the last of these that holds.
const (
	Usable   = "usable"
	Doubtful = "doubtful"
	Full     = "full"
	Failing  = "failing"
	Down     = "down"
)

// statusOf is what an upstream is to a handler that gives it at most so many tunnels, or
// any number if that is zero. An upstream that nobody knows of has been removed.
func statusOf(u *admin.Upstream, most int) string {
	switch {
	case u == nil:
		return upstream.Removed
	case u.State != upstream.Ready:
		return u.State
	case saysOf(u) != "":
		return saysOf(u)
	case u.Health == upstream.Down:
		return Down
	case u.Failing:
		return Failing
	case most > 0 && u.Tunnels >= most:
		return Full
	}
	return Usable
}

// saysOf is what an upstream is because its agent says so, if that is anything.
func saysOf(u *admin.Upstream) string {
	words := strings.Fields(u.Agent)
	switch {
	case slices.Contains(words, upstream.Maint):
		return upstream.Maint
	case slices.Contains(words, upstream.Drain), slices.Contains(words, "0%"):
		return upstream.Drain
	case len(words) > 0 && slices.Contains([]string{upstream.Down, "fail", "stopped"}, words[0]):
		return Down
	}
	return ""
}

// worse orders statuses, worst first: what an operator has said is meant to be.
func worse(status string) int {
	return slices.Index([]string{Down, Failing, Full, Doubtful, upstream.Evict, upstream.Maint, upstream.Drain, upstream.Removed, Usable}, status)
}

func byAddress(all []admin.Upstream) map[string]*admin.Upstream {
	found := make(map[string]*admin.Upstream, len(all))
	for i := range all {
		found[all[i].Address] = &all[i]
	}
	return found
}

// mergePools makes one of those whose handlers have the same name.
func mergePools(all []Pool) (merged []Pool) {
	at, listed := make(map[string]int), make(map[Pair]bool)
	for _, pool := range all {
		i, known := at[pool.Handler]
		if !known {
			i = len(merged)
			at[pool.Handler] = i
			merged = append(merged, Pool{Handler: pool.Handler})
		}
		merged[i].Queued += pool.Queued
		for _, m := range pool.Members {
			if pair := (Pair{pool.Handler, m.Upstream}); !listed[pair] {
				listed[pair] = true
				merged[i].Members = append(merged[i].Members, m)
			}
		}
	}
	return merged
}

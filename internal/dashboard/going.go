package dashboard

import (
	"cmp"
	"slices"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Going is how far an upstream is from being empty.
type Going struct {
	Upstream string `json:"upstream"`
	State    string `json:"state"`
	// Tunnels are left of First.
	Tunnels int       `json:"tunnels"`
	First   int       `json:"first"`
	By      string    `json:"by,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	// Rate is how many go a second.
	Rate float64 `json:"rate"`
	// Empty is when none will be left, if that is known: not where clients decide it.
	Empty time.Time `json:"empty,omitzero"`
	// Half is when half of them had gone, and Oldest when the oldest one that is left
	// was opened.
	Half   time.Time `json:"half,omitzero"`
	Oldest time.Time `json:"oldest,omitzero"`
}

// goingOf tells how far upstreams are from being empty: those with tunnels first.
func (h *history) goingOf(f *facts) []Going {
	all := []Going{}
	before := h.before(f.at, recently)
	was := make(map[string]*admin.Upstream)
	if before != nil && f.at.Sub(before.at) >= time.Second {
		was = byAddress(before.upstreams)
	}
	for i := range f.upstreams {
		u := &f.upstreams[i]
		if !isGoing(u) {
			continue
		}
		g := Going{
			Upstream: shown(u.Address), State: u.State, Tunnels: u.Tunnels, First: u.Tunnels,
			By: shown(u.By), Since: u.Since, Expires: u.Expires,
		}
		if track := h.going[u.Address]; track != nil && track.state == u.State && track.set.Equal(u.Since) {
			g.First, g.Half, g.Oldest = max(track.first, u.Tunnels), track.half, track.oldest
		}
		g.Rate = h.leaving(f, u, was[u.Address], before)
		g.Empty = h.emptyAt(f, u)
		all = append(all, g)
	}
	slices.SortStableFunc(all, func(a, b Going) int { return cmp.Compare(b.Tunnels, a.Tunnels) })
	return all[:min(len(all), mostGoing)]
}

// emptyAt is when none will be left: at the end of the operator's period, or else at the
// rate of the tunnels that have gone since it began. Zero: clients decide it.
func (h *history) emptyAt(f *facts, u *admin.Upstream) time.Time {
	if u.State == upstream.Drain || u.State == upstream.Maint || u.Tunnels == 0 {
		return time.Time{}
	}
	end := u.Since.Add(time.Duration(u.Period * float64(time.Second)))
	if u.State == upstream.Evict && end.After(f.at) {
		return end.Truncate(time.Second)
	}
	track := h.going[u.Address]
	if track == nil || !track.set.Equal(u.Since) || track.first <= u.Tunnels {
		return time.Time{}
	}
	each := f.at.Sub(track.began) / time.Duration(track.first-u.Tunnels)
	return f.at.Add(each * time.Duration(u.Tunnels)).Truncate(time.Second)
}

// leaving is how many tunnels an upstream loses a second, of late, but not before it got
// its state.
func (h *history) leaving(f *facts, u, was *admin.Upstream, before *facts) float64 {
	var from time.Time
	had := 0
	switch track := h.going[u.Address]; {
	case was != nil && before.at.After(u.Since):
		from, had = before.at, was.Tunnels
	case track != nil && track.set.Equal(u.Since):
		from, had = track.began, track.first
	}
	if over := f.at.Sub(from); had > u.Tunnels && over >= time.Second {
		return round(float64(had-u.Tunnels) / over.Seconds())
	}
	return 0
}

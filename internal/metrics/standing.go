package metrics

import (
	"cmp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// StandingsOf returns what is so at the upstreams of a pool, the ones included whose
// address depends on requests. Of these nothing is known beforehand, and asked are
// the sources of some.
func StandingsOf(p *upstream.Pool, asked []string) []Standing {
	found := p.Standings()
	all := make([]Standing, 0, len(found)+len(p.Templates)+len(asked))
	for _, s := range found {
		all = append(all, Standing{
			HandshakesLimit: s.HandshakesLimit, Handshakes: s.Handshakes,
			Upstream: s.Spelling(), Status: statusOf(&s), Limit: s.Limit, Checked: s.Checked, Up: !s.Down,
			Weight: s.Weight, Reweighed: s.Reweighed, Load: s.Load, State: cmp.Or(s.State.State, upstream.Ready), Since: s.State.At,
		})
	}
	for _, t := range p.Templates {
		all = append(all, Standing{Upstream: t.Dial})
	}
	for _, source := range asked {
		all = append(all, Standing{Upstream: upstream.FromSource(source).Spelling()})
	}
	return all
}

func statusOf(s *upstream.Standing) Status {
	switch {
	case s.State.State == upstream.Evict:
		return Evict
	case s.State.State == upstream.Maint:
		return Maint
	case s.State.State == upstream.Drain:
		return Drain
	case s.Word.State == upstream.Maint:
		return Maint
	case s.Word.Drains():
		return Drain
	case s.Down, s.Word.Closes():
		return Down
	case s.Failing:
		return Failing
	case s.Full:
		return Full
	case s.Doubtful:
		return Doubtful
	}
	return Usable
}

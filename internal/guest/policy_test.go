package guest

import (
	"net/http"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// selectorFunc is a selection policy.
type selectorFunc func(reverseproxy.UpstreamPool, http.ResponseWriter) *reverseproxy.Upstream

func (f selectorFunc) Select(
	pool reverseproxy.UpstreamPool, _ *http.Request, w http.ResponseWriter,
) *reverseproxy.Upstream {
	return f(pool, w)
}

// rig is a pool in which a selection policy of reverse_proxy chooses.
type rig struct {
	policy *Policy
	table  *upstream.Table
	pool   *upstream.Pool
}

func newRig(tb testing.TB, s reverseproxy.Selector, servers ...upstream.Server) *rig {
	tb.Helper()
	r := &rig{policy: &Policy{s}, table: upstream.NewTable(func(upstream.Change) {})}
	r.pool = upstream.NewPool(r.table)
	for _, s := range servers {
		s.Weight, s.Known = 1, NewUpstream(s.Dial)
		r.pool.AddFixed(&s, upstream.Address{Network: "tcp", HostPort: s.Dial})
	}
	tb.Cleanup(func() {
		r.pool.Release()
		if held := r.table.Held(); held != (upstream.Held{}) {
			tb.Errorf("at the end, the table holds %+v", held)
		}
	})
	return r
}

func (r *rig) candidates(tb testing.TB) *upstream.Candidates {
	tb.Helper()
	c, err := r.pool.Candidates(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestPoliciesSeeOnlyTheEligible(t *testing.T) {
	var seen []string
	r := newRig(t, selectorFunc(func(pool reverseproxy.UpstreamPool, _ http.ResponseWriter) *reverseproxy.Upstream {
		seen = nil
		for _, up := range pool {
			seen = append(seen, up.Dial)
		}
		if len(pool) == 0 {
			return nil
		}
		return pool[0]
	}), upstream.Server{Dial: "a:1", MaxTunnels: 1}, upstream.Server{Dial: "b:1"}, upstream.Server{Dial: "c:1", Backup: true})
	first, _ := r.policy.Pick(r.candidates(t), nil) // a, which is full from here on
	c := r.candidates(t)
	for _, want := range [][]string{{"b:1"}, {"c:1"}, nil} {
		chosen, _ := r.policy.Pick(c, nil)
		if !slices.Equal(seen, want) {
			t.Errorf("the policy saw %v, want %v", seen, want)
		}
		if (chosen == nil) != (want == nil) {
			t.Errorf("the choice is %+v", chosen)
		}
		if chosen != nil {
			r.table.GiveBack(chosen)
		}
	}
	r.table.GiveBack(first)
	c.NextRound()
	chosen, _ := r.policy.Pick(c, nil)
	r.table.GiveBack(chosen)
	if want := []string{"a:1", "b:1"}; !slices.Equal(seen, want) {
		t.Errorf("in the next round, the policy saw %v, want %v", seen, want)
	}
}

func TestPolicyIsAskedAgain(t *testing.T) {
	calls := 0
	var r *rig
	r = newRig(t, selectorFunc(func(pool reverseproxy.UpstreamPool, w http.ResponseWriter) *reverseproxy.Upstream {
		calls++
		w.Header().Add("Set-Cookie", pool[0].Dial)
		if calls == 1 {
			// Meanwhile another handshake takes the last place.
			r.table.HandshakeEnded(r.candidates(t).Reserve(r.pool.Fixed[0]), limit.Answered)
		}
		return pool[0]
	}), upstream.Server{Dial: "a:1", MaxTunnels: 1}, upstream.Server{Dial: "b:1"})
	chosen, header := r.policy.Pick(r.candidates(t), nil)
	if chosen == nil || chosen.Host.Address != "b:1" || calls != 2 {
		t.Fatalf("the choice is %+v after %d calls, want b:1 after 2", chosen, calls)
	}
	if got, want := header.Values("Set-Cookie"), []string{"b:1"}; !slices.Equal(got, want) {
		t.Errorf("the header has %v, want %v", got, want)
	}
	r.table.GiveBack(chosen)
	r.table.TunnelEnded(r.pool.Fixed[0].Host)
}

func TestPolicyMayChooseNothing(t *testing.T) {
	stranger := &reverseproxy.Upstream{Dial: "a:1"}
	for name, choice := range map[string]*reverseproxy.Upstream{"nothing": nil, "a stranger": stranger} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, selectorFunc(func(reverseproxy.UpstreamPool, http.ResponseWriter) *reverseproxy.Upstream {
				return choice
			}), upstream.Server{Dial: "a:1"})
			if chosen, _ := r.policy.Pick(r.candidates(t), nil); chosen != nil {
				t.Errorf("the choice is %+v", chosen)
			}
		})
	}
}

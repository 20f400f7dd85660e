package settings

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/directive"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// OwnPolicy is the configuration of the policies that this module implements
// itself, in the form that reverse_proxy's policies of these names have.
type OwnPolicy struct {
	Policy  string `json:"policy"`
	Choose  *int   `json:"choose"`
	Weights []int  `json:"weights"`

	// Sticky is who are no newcomers, for which the others are; nil if all are. By is the
	// name of the whole.
	Sticky *sticky.Settings `json:"-"`
	By     string           `json:"-"`

	keyed
}

// OwnPolicy returns the policy if it is one of this module's own; nil if it is of
// another one.
func (lb *LoadBalancing) OwnPolicy() (*OwnPolicy, error) {
	return ParseOwnPolicy(lb.SelectionPolicyRaw)
}

// ParseOwnPolicy is OwnPolicy for the configuration of a policy, which may be none: the default.
func ParseOwnPolicy(raw json.RawMessage) (*OwnPolicy, error) {
	if len(raw) == 0 {
		raw = json.RawMessage(`{"policy":"least_conn"}`)
	}
	name, err := nameOf(raw)
	if err != nil || !sticky.Is(name) {
		return ownPolicy(name, raw, err)
	}
	known, err := sticky.Parse(raw)
	if err != nil {
		return nil, err
	}
	fallback, err := nameOf(known.Fallback)
	own, err := ownPolicy(fallback, known.Fallback, err)
	switch {
	case err != nil:
		return nil, fmt.Errorf("fallback: %w", err)
	case own != nil && own.Policy != Hash:
	case fallback == "random", fallback == "first":
		own = &OwnPolicy{Policy: fallback}
	default:
		return nil, fmt.Errorf("fallback: newcomers cannot go by %q; use %s", fallback, fallbacks)
	}
	own.Sticky, own.By = known, name
	return own, nil
}

// fallbacks are what newcomers may go by.
const fallbacks = "least_conn, round_robin, weighted_round_robin, random_choose, random, first, or another sticky policy"

// UnmarshalPolicy sets up a policy of reverse_proxy from its tokens in a Caddyfile. What a
// sticky one falls back to is looked at first, as it says only that there is no such module
// if it is a policy that reverse_proxy has not.
func UnmarshalPolicy(policy any, tokens []caddyfile.Token) error {
	for i := 1; sticky.Is(tokens[0].Text) && i < len(tokens)-1; i++ {
		begins := tokens[i].Line != tokens[i-1].Line || tokens[i-1].Text == "{"
		if name := tokens[i+1]; begins && tokens[i].Text == "fallback" && name.Line == tokens[i].Line {
			if _, err := caddy.GetModule("http.reverse_proxy.selection_policies." + name.Text); err != nil {
				return directive.ErrorAt(name, "lb_policy fallback: newcomers cannot go by %q; use %s", name.Text, fallbacks)
			}
		}
	}
	return directive.UnmarshalGuest("lb_policy", policy, tokens)
}

// nameOf is the name of a policy. Options of other modules' policies may have the same
// names as ours and other types, so only the name counts until it is known to be ours.
func nameOf(raw json.RawMessage) (string, error) {
	var named struct {
		Policy string `json:"policy"`
	}
	err := json.Unmarshal(raw, &named)
	return named.Policy, explain(err)
}

// ownPolicy reads the configuration of a policy for newcomers if it is an own one.
func ownPolicy(name string, raw json.RawMessage, err error) (*OwnPolicy, error) {
	if err != nil {
		return nil, err
	}
	switch name {
	case guest.PoolSource:
		return nil, fmt.Errorf("%s is for reverse_proxy; give this handler a policy itself, such as cookie", name)
	case "least_conn", "round_robin", "random_choose", "weighted_round_robin", Hash:
		own := &OwnPolicy{By: name}
		if err := Decode(raw, own); err != nil {
			return nil, err
		}
		return own, own.loadFallback()
	}
	return nil, nil
}

// Apply has a pool go by the policy. handlers tells which others are the same handler.
func (own *OwnPolicy) Apply(p *upstream.Pool, handlers func() upstream.ClientGroup) {
	if own.Policy == Hash {
		p.Keys = own.keys(handlers)
		own = own.fallback
	}
	p.Policy = own.build()
}

func (own *OwnPolicy) build() upstream.Policy {
	switch own.Policy {
	case "round_robin", "weighted_round_robin":
		return upstream.RoundRobin{}
	case "random_choose":
		choices := DefaultChoices
		if own.Choose != nil {
			choices = *own.Choose
		}
		return &upstream.RandomChoose{Choices: choices}
	case "random":
		return &upstream.RandomChoose{Choices: 1}
	case "first":
		return upstream.First{}
	}
	return upstream.LeastConn{}
}

// check reports what is wrong with the policy for these upstreams.
func (own *OwnPolicy) check(upstreams []*Upstream) error {
	if err := own.checkKeyed(); err != nil {
		return err
	}
	if own.fallback != nil {
		if err := own.fallback.check(upstreams); err != nil {
			return fmt.Errorf("fallback: %w", err)
		}
		return nil
	}
	switch {
	case own.Choose != nil && own.Policy != "random_choose":
		return fmt.Errorf("%s has no option `choose`", own.Policy)
	case own.Choose != nil && *own.Choose < 2:
		return fmt.Errorf("choose: must be at least 2, not %d; `random` is a policy of its own", *own.Choose)
	case own.Policy == "weighted_round_robin":
	case own.Weights != nil:
		return fmt.Errorf("%s has no option `weights`; give each upstream its weight", own.Policy)
	default:
		return nil
	}
	if len(own.Weights) != len(upstreams) {
		return fmt.Errorf("weights: %d for %d upstreams; give one for each", len(own.Weights), len(upstreams))
	}
	for i, w := range own.Weights {
		if w < 1 || w > upstream.MaxWeight {
			return fmt.Errorf("weights[%d]: %d is not between 1 and %d", i, w, upstream.MaxWeight)
		}
	}
	return nil
}

// checkWeights refuses weights that upstreams have besides those of the policy.
func (own *OwnPolicy) checkWeights(upstreams []*Upstream) error {
	for i, up := range upstreams {
		if up.Weight != 0 && own.Weights != nil {
			return fmt.Errorf("upstreams[%d]: weight: is given here and in weighted_round_robin; choose one", i)
		}
	}
	return nil
}

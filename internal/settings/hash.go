package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/directive"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Hash is the name of the policy that goes by a key.
const Hash = "hash"

const (
	leastBalance = 100
	mostBalance  = 10_000
)

// keyed is what the policy hash has besides others.
type keyed struct {
	// Key is a text with placeholders of the request.
	Key string `json:"key"`
	// Balance is in percent; nil: keys go by their order alone.
	Balance *int `json:"balance"`
	// FallbackRaw is the configuration of the policy that those without a key go by, and
	// fallback what it says.
	FallbackRaw json.RawMessage `json:"fallback"`
	fallback    *OwnPolicy
}

// loadFallback reads the policy of those without a key.
func (own *OwnPolicy) loadFallback() (err error) {
	if own.Policy != Hash {
		return nil
	}
	switch {
	case own.Weights != nil:
		return errors.New("hash has no option `weights`; give each upstream its weight")
	case own.Choose != nil:
		return errors.New("hash has no option `choose`; give it to the fallback")
	}
	if own.fallback, err = ParseOwnPolicy(own.FallbackRaw); err != nil {
		return fmt.Errorf("fallback: %w", err)
	}
	if own.fallback == nil || own.fallback.Policy == Hash || own.fallback.Sticky != nil {
		return errors.New("fallback: is not least_conn, round_robin, weighted_round_robin or random_choose")
	}
	own.Weights = own.fallback.Weights
	return nil
}

// checkKeyed reports what is wrong with the options of hash.
func (own *OwnPolicy) checkKeyed() error {
	if own.Policy != Hash {
		for option, given := range map[string]bool{
			"key": own.Key != "", "balance": own.Balance != nil, "fallback": own.FallbackRaw != nil,
		} {
			if given {
				return fmt.Errorf("%s has no option `%s`", own.Policy, option)
			}
		}
		return nil
	}
	switch {
	case own.Key == "":
		return errors.New("key: is empty; give a placeholder, such as {http.request.uri.query.room}")
	case len(guest.RequestPlaceholders(own.Key)) == 0:
		return fmt.Errorf("key: %q is the same for all clients, so that all would come to one upstream; "+
			"use a placeholder of the request, such as {http.request.uri.query.room}", own.Key)
	case own.Balance != nil && (*own.Balance < leastBalance || *own.Balance > mostBalance):
		return fmt.Errorf("balance: %d is not between %d and %d percent of an upstream's fair share",
			*own.Balance, leastBalance, mostBalance)
	}
	return nil
}

// roomGroup tells handlers whose rooms are counted together: those whose clients are, if
// their keys are made of the same.
type roomGroup struct {
	clients any
	key     string
}

// keys are those of a pool, of which handlers says which others are the same.
func (own *OwnPolicy) keys(handlers func() upstream.ClientGroup) *upstream.Keys {
	k := &upstream.Keys{Group: func() any { return roomGroup{handlers(), own.Key} }}
	if own.Balance != nil {
		k.Balance = *own.Balance
	}
	return k
}

// KeyOf returns the key of a request. It is empty if all of its placeholders are: who has
// no room is in none.
func (own *OwnPolicy) KeyOf(repl *caddy.Replacer) string {
	isEmpty := true
	key, err := repl.ReplaceFunc(own.Key, func(_ string, value any) (any, error) {
		isEmpty = isEmpty && caddy.ToString(value) == ""
		return value, nil
	})
	if err != nil || isEmpty {
		return ""
	}
	return key
}

// UnmarshalCaddyfile reads the policy hash. Syntax:
//
//	hash <key> [balance <percent>] {
//		balance  <percent>
//		fallback <name> [<options...>]
//	}
func (own *OwnPolicy) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	own.Policy = Hash
	if !d.NextArg() {
		return d.Err("lb_policy hash needs a key, such as {query.room}")
	}
	own.Key = d.Val()
	for d.NextArg() {
		if d.Val() != "balance" {
			return d.Errf("lb_policy hash does not take %s; after the key comes balance and a percentage", d.Val())
		}
		if err := own.parseBalance(d); err != nil {
			return err
		}
	}
	for d.NextBlock(0) {
		var err error
		switch option := d.Val(); option {
		case "balance":
			err = own.parseBalance(d)
		case "fallback":
			err = own.parseFallback(d)
		default:
			err = d.Errf("lb_policy hash has no option %s; use balance or fallback", option)
		}
		if err == nil && d.NextArg() {
			err = d.ArgErr()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (own *OwnPolicy) parseBalance(d *caddyfile.Dispenser) error {
	if own.Balance != nil {
		return d.Err("balance is given twice")
	}
	if !d.NextArg() {
		return d.Err("balance needs a percentage, such as 125")
	}
	percent, err := strconv.Atoi(strings.TrimSuffix(d.Val(), "%"))
	if err != nil {
		return d.Errf("balance is a percentage of at least %d, such as 125, not %q", leastBalance, d.Val())
	}
	own.Balance = &percent
	return nil
}

func (own *OwnPolicy) parseFallback(d *caddyfile.Dispenser) error {
	if own.FallbackRaw != nil {
		return d.Err("fallback is given twice")
	}
	tokens := d.NextSegment()
	if len(tokens) == 1 {
		return d.Err("fallback needs the name of a policy, such as least_conn")
	}
	tokens = tokens[1:]
	name := tokens[0].Text
	info, err := caddy.GetModule("http.reverse_proxy.selection_policies." + name)
	if err != nil {
		return directive.ErrorAt(tokens[0], "fallback %s is not known; use least_conn, round_robin, "+
			"weighted_round_robin or random_choose", name)
	}
	module := info.New()
	if err := directive.UnmarshalGuest("fallback", module, tokens); err != nil {
		return err
	}
	own.FallbackRaw = caddyconfig.JSONModuleObject(module, "policy", name, nil)
	return nil
}

// JSON returns the configuration of the policy hash.
func (own *OwnPolicy) JSON() json.RawMessage {
	return caddyconfig.JSON(struct {
		Policy   string          `json:"policy"`
		Key      string          `json:"key"`
		Balance  *int            `json:"balance,omitempty"`
		Fallback json.RawMessage `json:"fallback,omitempty"`
	}{own.Policy, own.Key, own.Balance, own.FallbackRaw}, nil)
}

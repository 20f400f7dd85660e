package websocketproxy

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("websocket_proxy", parseCaddyfile)
	// After what rewrites, authenticates and refuses; before everything that
	// answers, so that nothing else of the site swallows a handshake.
	httpcaddyfile.RegisterDirectiveOrder("websocket_proxy", httpcaddyfile.Before, "respond")
}

func parseCaddyfile(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(helper.Dispenser); err != nil {
		return nil, err
	}
	return h, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	websocket_proxy [<matcher>] [<upstreams...>] {
//		# upstreams
//		to                 <upstreams...>
//		upstream           <address> [weight <n>] [max_tunnels <n>] [backup]
//		name               <name>
//
//		# load balancing
//		lb_policy          <name> [<options...>]
//		lb_retries         <n>
//		lb_try_duration    <duration>
//		lb_try_interval    <duration>
//		rebalance          <percent> [<interval>] | off
//
//		# timeouts
//		handshake_timeout  <duration>|off
//		idle_timeout       <duration>|off
//		write_timeout      <duration>|off
//		half_close_timeout <duration>|off
//		max_lifetime       <duration>|off [<jitter>]
//
//		# keepalive
//		ping_interval      <duration>|off
//		ping_timeout       <duration>|off
//
//		# limits
//		max_message_size   <size>|off
//		max_message_rate   <n> [<burst>] [delay|close] | off
//
//		# how tunnels end when the proxy ends them
//		evict_period       <duration>|off
//		shutdown_period    <duration>
//		close_code         <code> [<reason>]
//
//		# who may connect, and how
//		origins            same|null|<origins...>
//		subprotocols       <names...>
//		require_upgrade
//
//		# the request that goes upstream, and its answer
//		header_up          [+|-]<field> [<value> [<replacement>]]
//		header_down        [+|-]<field> [<value> [<replacement>]]
//		trusted_proxies    [private_ranges] <ranges...>
//		transport          http { ... }
//	}
//
// Upstreams are addresses as reverse_proxy takes them, also with the schemes
// ws:// and wss://. Either all of them use TLS or none does. A jitter is a
// percentage, such as 10%, and a size a number of bytes, such as 64KB or 1MiB.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive name
	p := parser{h: h, d: d, seen: make(map[string]bool), shared: new(shared)}
	for d.NextArg() {
		if err := p.upstream(d.Token(), Upstream{}); err != nil {
			return err
		}
	}
	for d.NextBlock(0) {
		if err := p.option(d.Val()); err != nil {
			return err
		}
	}
	if err := p.checkKeepalive(); err != nil {
		return err
	}
	return p.shared.finish(h)
}

// parser is the state of parsing one directive.
type parser struct {
	h      *Handler
	d      *caddyfile.Dispenser
	seen   map[string]bool
	shared *shared
	// timeoutAt is where ping_timeout is, if it is given.
	timeoutAt caddyfile.Token
}

// repeatable are the options that may be given several times and add up.
var repeatable = map[string]bool{
	"to": true, "upstream": true, "header_up": true, "header_down": true, "trusted_proxies": true,
	"origins": true, "subprotocols": true,
}

// option parses the option that the dispenser stands on.
func (p *parser) option(name string) error {
	if hint, ok := refusedOptions[name]; ok {
		return p.d.Errf("%s is not an option of websocket_proxy: %s", name, hint)
	}
	if strings.HasPrefix(name, "@") {
		return p.d.Errf("%s: websocket_proxy has no response matchers; use the intercept directive", name)
	}
	if p.seen[name] && !repeatable[name] {
		return p.d.Errf("%s is given twice", name)
	}
	p.seen[name] = true
	parse, ok := map[string]func() error{
		"to":                 p.to,
		"upstream":           p.upstreamOption,
		"lb_policy":          p.policy,
		"lb_retries":         p.retries,
		"lb_try_duration":    p.tryTime(func(lb *LoadBalancing) *caddy.Duration { return &lb.TryDuration }),
		"lb_try_interval":    p.tryTime(func(lb *LoadBalancing) *caddy.Duration { return &lb.TryInterval }),
		"rebalance":          p.rebalance,
		"handshake_timeout":  p.timeout(func(t *Timeouts) *caddy.Duration { return &t.Handshake }),
		"idle_timeout":       p.timeout(func(t *Timeouts) *caddy.Duration { return &t.Idle }),
		"write_timeout":      p.timeout(func(t *Timeouts) *caddy.Duration { return &t.Write }),
		"half_close_timeout": p.timeout(func(t *Timeouts) *caddy.Duration { return &t.HalfClose }),
		"max_lifetime":       p.maxLifetime,
		"ping_interval":      p.pingInterval,
		"ping_timeout":       p.pingTimeout,
		"max_message_size":   p.maxMessageSize,
		"max_message_rate":   p.maxMessageRate,
		"evict_period":       p.evictPeriod,
		"shutdown_period":    p.shutdownPeriod,
		"close_code":         p.closeCode,
		"name":               p.name,
		"origins":            p.list(func(a *Access) *[]string { return &a.Origins }),
		"subprotocols":       p.list(func(a *Access) *[]string { return &a.Subprotocols }),
		"require_upgrade":    p.requireUpgrade,
		"header_up":          p.sharedOption(3),
		"header_down":        p.sharedOption(3),
		"trusted_proxies":    p.sharedOption(math.MaxInt),
		"transport":          p.transport,
	}[name]
	if !ok {
		return p.d.Errf("unrecognized option %s", name)
	}
	if err := parse(); err != nil {
		return err
	}
	return p.surplus(name)
}

// surplus refuses what is left after an option's arguments.
func (p *parser) surplus(name string) error {
	if p.d.NextArg() {
		return p.d.Errf("%s has too many arguments: %s", name, p.d.Val())
	}
	last := p.d.Token()
	if nesting := p.d.Nesting(); p.d.NextBlock(nesting) {
		return errorAt(last, "%s has no block", name)
	}
	return nil
}

// arg returns the option's next argument.
func (p *parser) arg(what string) (string, error) {
	option := p.d.Val()
	if !p.d.NextArg() {
		return "", p.d.Errf("%s needs %s", option, what)
	}
	return p.d.Val(), nil
}

func (p *parser) to() error {
	if p.d.CountRemainingArgs() == 0 {
		return p.d.Err("to needs at least one upstream address")
	}
	for p.d.NextArg() {
		if err := p.upstream(p.d.Token(), Upstream{}); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) upstreamOption() error {
	if _, err := p.arg("an address"); err != nil {
		return err
	}
	address, settings := p.d.Token(), Upstream{}
	seen := make(map[string]bool)
	for p.d.NextArg() {
		var err error
		name := p.d.Val()
		if seen[name] {
			return p.d.Errf("%s is given twice", name)
		}
		seen[name] = true
		switch name {
		case "weight":
			settings.Weight, err = p.count(name)
		case "max_tunnels":
			settings.MaxTunnels, err = p.count(name)
		case "backup":
			settings.Backup = true
		default:
			err = p.d.Errf("upstream has no setting %s; it has weight, max_tunnels and backup", name)
		}
		if err != nil {
			return err
		}
	}
	return p.upstream(address, settings)
}

// upstream adds the upstreams that an address stands for.
func (p *parser) upstream(address caddyfile.Token, settings Upstream) error {
	dials, err := p.shared.upstream(address)
	if err != nil {
		return err
	}
	for _, dial := range dials {
		up := settings
		up.Dial = dial
		p.h.Upstreams = append(p.h.Upstreams, &up)
	}
	return nil
}

// count parses a number of at least one.
func (p *parser) count(what string) (int, error) {
	s, err := p.arg("a number")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, p.d.Errf("%s is a number of at least 1, not %q", what, s)
	}
	return n, nil
}

func (p *parser) timeouts() *Timeouts {
	if p.h.Timeouts == nil {
		p.h.Timeouts = new(Timeouts)
	}
	return p.h.Timeouts
}

func (p *parser) access() *Access {
	if p.h.Access == nil {
		p.h.Access = new(Access)
	}
	return p.h.Access
}

// timeout returns the parser of an option with one duration.
func (p *parser) timeout(field func(*Timeouts) *caddy.Duration) func() error {
	return func() (err error) {
		*field(p.timeouts()), err = p.duration()
		return err
	}
}

// duration parses a duration or off. In the configuration zero means the
// default, so it is refused rather than taken for either.
func (p *parser) duration() (caddy.Duration, error) {
	option := p.d.Val()
	s, err := p.arg("a duration, such as 30s")
	if err != nil {
		return 0, err
	}
	if s == "off" {
		return -1, nil
	}
	duration, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, p.d.Errf("%s is a duration such as 30s, or off, not %q", option, s)
	}
	if duration <= 0 {
		return 0, p.d.Errf("%s is %s; write off for no limit, or leave it out for the default", option, s)
	}
	return caddy.Duration(duration), nil
}

func (p *parser) maxLifetime() (err error) {
	t := p.timeouts()
	if t.MaxLifetime, err = p.duration(); err != nil || !p.d.NextArg() {
		return err
	}
	if t.MaxLifetime < 0 {
		return p.d.Err("max_lifetime off has no jitter")
	}
	t.LifetimeJitter, err = parsePercentage(p.d.Val())
	if err != nil {
		return p.d.Errf("the jitter of max_lifetime %v", err)
	}
	if t.LifetimeJitter == 0 {
		t.LifetimeJitter = -1 // zero would mean the default
	}
	return nil
}

// parsePercentage parses a percentage, such as 10%, to a part of one.
func parsePercentage(s string) (float64, error) {
	number, ok := strings.CutSuffix(s, "%")
	percent, err := strconv.ParseFloat(number, 64)
	// The comparison is written so that NaN fails it.
	if !ok || err != nil || !(percent >= 0 && percent <= 100) {
		return 0, fmt.Errorf("is a percentage from 0%% to 100%%, not %q", s)
	}
	return percent / 100, nil
}

// list returns the parser of an option with a list of words.
func (p *parser) list(field func(*Access) *[]string) func() error {
	return func() error {
		option, words := p.d.Val(), p.d.RemainingArgs()
		if len(words) == 0 {
			return p.d.Errf("%s needs at least one value", option)
		}
		list := field(p.access())
		*list = append(*list, words...)
		return nil
	}
}

func (p *parser) requireUpgrade() error {
	p.access().RequireUpgrade = true
	return nil
}

package websocketproxy

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterDirective("websocket_proxy", parseDirective)
	// After what rewrites, authenticates and refuses, respond included: people
	// trust that what keeps requests from reverse_proxy keeps sockets from us.
	// Before reverse_proxy and the others that answer to everything.
	httpcaddyfile.RegisterDirectiveOrder("websocket_proxy", httpcaddyfile.Before, "reverse_proxy")
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
//		upstream           <address> [weight <n>] [max_tunnels <n>|off] [backup]
//		dynamic            <source> [<options...>]
//		name               <name>
//
//		# load balancing
//		lb_policy          <name> [<options...>]
//		lb_retries         <n>
//		lb_retry_status    <codes...>
//		lb_try_duration    <duration>
//		lb_try_interval    <duration>
//		max_tunnels        <n>|off
//		queue              <n> [<timeout>] | off
//		slow_start         <duration>|off
//		rebalance          <percent> [<interval>] | off
//
//		# passive health checks
//		fail_duration      <duration>|off
//		max_fails          <n>|off
//
//		# active health checks
//		health_check            http|websocket|tcp [<uri>]
//		health_uri              <uri>
//		health_port             <port>
//		health_upstream         <address>
//		health_interval         <duration>
//		health_timeout          <duration>
//		health_passes           <n>
//		health_fails            <n>
//		health_headers          { <field> [<values...>] }
//		health_method           <method>
//		health_request_body     <text>
//		health_follow_redirects
//		health_status           <code>|<class>
//		health_body             <regexp>
//		health_max_size         <size>|off
//		on_unhealthy            keep|evict
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
//		max_tunnels_per_client <n>|off
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
	p := parser{
		h: h, d: d, shared: new(shared), directive: d.Token(),
		given: make(map[string]caddyfile.Token), elements: make(map[string]caddyfile.Token),
	}
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
	if err := p.finishHealth(); err != nil {
		return err
	}
	if err := p.shared.finish(h); err != nil {
		return err
	}
	if err := h.checkConfig(); err != nil {
		return p.mistake(err)
	}
	return nil
}

// parser is the state of parsing one directive.
type parser struct {
	h      *Handler
	d      *caddyfile.Dispenser
	shared *shared
	health healthOptions
	// These say where everything is: the directive, options by their names, and
	// elements of lists by their paths in JSON.
	directive       caddyfile.Token
	given, elements map[string]caddyfile.Token
}

// repeatable are the options that may be given several times and add up.
var repeatable = map[string]bool{
	"to": true, "upstream": true, "header_up": true, "header_down": true, "trusted_proxies": true,
	"origins": true, "subprotocols": true, "lb_retry_status": true,
}

// option parses the option that the dispenser stands on.
func (p *parser) option(name string) error {
	if hint, ok := refusedOptions[name]; ok {
		return p.d.Errf("%s is not an option of websocket_proxy: %s", name, hint)
	}
	if strings.HasPrefix(name, "@") {
		return p.d.Errf("%s: websocket_proxy has no response matchers; use the intercept directive", name)
	}
	if _, twice := p.given[name]; twice && !repeatable[name] {
		return p.d.Errf("%s is given twice", name)
	}
	p.given[name] = p.d.Token()
	parse, ok := map[string]func() error{
		"to":                     p.to,
		"upstream":               p.upstreamOption,
		"dynamic":                p.dynamic,
		"lb_policy":              p.policy,
		"lb_retries":             p.retries,
		"lb_retry_status":        p.retryStatus,
		"lb_try_duration":        p.tryTime(func(lb *LoadBalancing) *caddy.Duration { return &lb.TryDuration }),
		"lb_try_interval":        p.tryTime(func(lb *LoadBalancing) *caddy.Duration { return &lb.TryInterval }),
		"max_tunnels":            p.maxTunnels,
		"queue":                  p.queue,
		"slow_start":             p.slowStart,
		"rebalance":              p.rebalance,
		"fail_duration":          p.failDuration,
		"max_fails":              p.maxFails,
		"handshake_timeout":      p.timeout(func(t *Timeouts) *caddy.Duration { return &t.Handshake }),
		"idle_timeout":           p.timeout(func(t *Timeouts) *caddy.Duration { return &t.Idle }),
		"write_timeout":          p.timeout(func(t *Timeouts) *caddy.Duration { return &t.Write }),
		"half_close_timeout":     p.timeout(func(t *Timeouts) *caddy.Duration { return &t.HalfClose }),
		"max_lifetime":           p.maxLifetime,
		"ping_interval":          p.pingInterval,
		"ping_timeout":           p.pingTimeout,
		"max_message_size":       p.maxMessageSize,
		"max_message_rate":       p.maxMessageRate,
		"max_tunnels_per_client": p.maxTunnelsPerClient,
		"evict_period":           p.evictPeriod,
		"shutdown_period":        p.shutdownPeriod,
		"close_code":             p.closeCode,
		"name":                   p.name,
		"origins":                p.list(func(a *Access) *[]string { return &a.Origins }),
		"subprotocols":           p.list(func(a *Access) *[]string { return &a.Subprotocols }),
		"require_upgrade":        p.requireUpgrade,
		"header_up":              p.header,
		"header_down":            p.header,
		"trusted_proxies":        p.trustedProxies,
		"transport":              p.transport,

		"health_check":            p.healthCheck,
		"health_uri":              p.healthOption(1),
		"health_port":             p.healthOption(1),
		"health_upstream":         p.healthOption(1),
		"health_interval":         p.healthOption(1),
		"health_timeout":          p.healthOption(1),
		"health_passes":           p.healthOption(1),
		"health_fails":            p.healthOption(1),
		"health_headers":          p.healthHeaders,
		"health_method":           p.healthOption(1),
		"health_request_body":     p.healthOption(1),
		"health_follow_redirects": p.healthOption(0),
		"health_status":           p.healthOption(1),
		"health_body":             p.healthOption(1),
		"health_max_size":         p.healthMaxSize,
		"on_unhealthy":            p.onUnhealthy,
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

func (p *parser) name() error {
	name, err := p.arg("a name")
	p.h.Name = name
	return err
}

package websocketproxy

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	httpcaddyfile.RegisterDirective("websocket_proxy", parseDirective)
	// After what rewrites, authenticates and refuses, respond included: people
	// trust that what keeps requests from reverse_proxy keeps sockets from us.
	// Before reverse_proxy and the others that answer to everything.
	httpcaddyfile.RegisterDirectiveOrder("websocket_proxy", httpcaddyfile.Before, "reverse_proxy")
}

// parseDirective is what httpcaddyfile has for directives that are a handler,
// with a look at the matcher.
func parseDirective(helper httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !helper.Next() {
		return nil, helper.ArgErr()
	}
	at := helper.Token()
	matchers, err := helper.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	warnOfHTTP1(matchers, at)
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(helper.Dispenser); err != nil {
		return nil, err
	}
	return helper.NewRoute(matchers, h), nil
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

// option is one of the block.
type option struct {
	// sets are the paths in JSON that it sets, separated by spaces.
	sets string
	// parse reads its arguments. The dispenser stands on its name.
	parse func(*parser) error
}

// options are all of them by name.
var options map[string]option

// The parsers ask what is an option, so the table cannot be a variable's initial value.
func init() {
	options = map[string]option{
		// upstreams
		"to":       {"", (*parser).to},
		"upstream": {"upstreams", (*parser).upstreamOption},
		"dynamic":  {"dynamic_upstreams", (*parser).dynamic},
		"name":     {"name", func(p *parser) (err error) { p.h.Name, err = p.arg("a name"); return err }},

		// load balancing
		"lb_policy":       {"load_balancing.selection_policy", (*parser).policy},
		"lb_retries":      {"load_balancing.retries", (*parser).retries},
		"lb_retry_status": {"load_balancing.retry_status", (*parser).retryStatus},
		"lb_try_duration": {"load_balancing.try_duration", func(p *parser) error { return p.tryTime(&p.balancing().TryDuration) }},
		"lb_try_interval": {"load_balancing.try_interval", func(p *parser) error { return p.tryTime(&p.balancing().TryInterval) }},
		"max_tunnels":     {"load_balancing.max_tunnels", func(p *parser) error { return p.countOrOff(&p.balancing().MaxTunnels) }},
		"queue":           {"load_balancing.queue", (*parser).queue},
		"slow_start":      {"load_balancing.slow_start", (*parser).slowStart},
		"rebalance":       {"load_balancing.rebalance", (*parser).rebalance},

		// passive health checks
		"fail_duration": {"health_checks.passive.fail_duration", func(p *parser) error { return p.durationOrOff(&p.passive().FailDuration) }},
		"max_fails":     {"health_checks.passive.max_fails", func(p *parser) error { return p.countOrOff(&p.passive().MaxFails) }},

		// active health checks; health_check has the uri, too
		"health_check":            {"health_checks.active health_checks.active.kind", (*parser).healthCheck},
		"health_uri":              {"health_checks.active.uri", (*parser).healthOption},
		"health_port":             {"health_checks.active.port", (*parser).healthOption},
		"health_upstream":         {"health_checks.active.upstream", (*parser).healthOption},
		"health_interval":         {"health_checks.active.interval", (*parser).healthOption},
		"health_timeout":          {"health_checks.active.timeout", (*parser).healthOption},
		"health_passes":           {"health_checks.active.passes", (*parser).healthOption},
		"health_fails":            {"health_checks.active.fails", (*parser).healthOption},
		"health_headers":          {"health_checks.active.headers", (*parser).healthHeaders},
		"health_method":           {"health_checks.active.method", (*parser).healthOption},
		"health_request_body":     {"health_checks.active.body", (*parser).healthOption},
		"health_follow_redirects": {"health_checks.active.follow_redirects", (*parser).healthFlag},
		"health_status":           {"health_checks.active.expect_status", (*parser).healthOption},
		"health_body":             {"health_checks.active.expect_body", (*parser).healthOption},
		"health_max_size":         {"health_checks.active.max_size", func(p *parser) error { return p.sizeOrOff(&p.health.active.MaxSize) }},
		"on_unhealthy":            {"health_checks.active.on_unhealthy", (*parser).onUnhealthy},

		// timeouts
		"handshake_timeout":  {"timeouts.handshake", func(p *parser) error { return p.durationOrOff(&p.timeouts().Handshake) }},
		"idle_timeout":       {"timeouts.idle", func(p *parser) error { return p.durationOrOff(&p.timeouts().Idle) }},
		"write_timeout":      {"timeouts.write", func(p *parser) error { return p.durationOrOff(&p.timeouts().Write) }},
		"half_close_timeout": {"timeouts.half_close", func(p *parser) error { return p.durationOrOff(&p.timeouts().HalfClose) }},
		"max_lifetime":       {"timeouts.max_lifetime timeouts.lifetime_jitter", (*parser).maxLifetime},

		// keepalive
		"ping_interval": {"keepalive.ping_interval", func(p *parser) error { return p.durationOrOff(&p.keepalive().PingInterval) }},
		"ping_timeout":  {"keepalive.ping_timeout", func(p *parser) error { return p.durationOrOff(&p.keepalive().PingTimeout) }},

		// limits
		"max_message_size":       {"limits.max_message_size", func(p *parser) error { return p.sizeOrOff(&p.limits().MaxMessageSize) }},
		"max_message_rate":       {"limits.max_message_rate limits.message_burst limits.on_message_rate", (*parser).maxMessageRate},
		"max_tunnels_per_client": {"limits.max_tunnels_per_client", func(p *parser) error { return p.countOrOff(&p.limits().MaxTunnelsPerClient) }},

		// how tunnels end when the proxy ends them
		"evict_period":    {"drain.evict_period", func(p *parser) error { return p.durationOrOff(&p.drain().EvictPeriod) }},
		"shutdown_period": {"drain.shutdown_period", (*parser).shutdownPeriod},
		"close_code":      {"drain.close_code drain.close_reason", (*parser).closeCode},

		// who may connect, and how
		"origins":         {"access.origins", func(p *parser) error { return p.words(&p.access().Origins) }},
		"subprotocols":    {"access.subprotocols", func(p *parser) error { return p.words(&p.access().Subprotocols) }},
		"require_upgrade": {"access.require_upgrade", func(p *parser) error { p.access().RequireUpgrade = true; return nil }},

		// the request that goes upstream, and its answer
		"header_up":       {"", (*parser).header},
		"header_down":     {"", (*parser).header},
		"trusted_proxies": {"trusted_proxies", (*parser).trustedProxies},
		"transport":       {"transport", (*parser).transport},
	}
	for name, o := range options {
		for path := range strings.FieldsSeq(o.sets) {
			optionOf[path] = name
		}
	}
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
	o, ok := options[name]
	if !ok {
		return p.d.Errf("unrecognized option %s", name)
	}
	if strings.HasPrefix(o.sets, "health_checks.active") {
		p.health.given = append(p.health.given, p.d.Token())
	}
	if err := o.parse(p); err != nil {
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

// section returns a part of the configuration, which is made if it is not there.
func section[T any](part **T) *T {
	if *part == nil {
		*part = new(T)
	}
	return *part
}

func (p *parser) balancing() *LoadBalancing { return section(&p.h.LoadBalancing) }
func (p *parser) timeouts() *Timeouts       { return section(&p.h.Timeouts) }
func (p *parser) keepalive() *Keepalive     { return section(&p.h.Keepalive) }
func (p *parser) limits() *Limits           { return section(&p.h.Limits) }
func (p *parser) drain() *Drain             { return section(&p.h.Drain) }
func (p *parser) access() *Access           { return section(&p.h.Access) }
func (p *parser) checks() *HealthChecks     { return section(&p.h.HealthChecks) }

func (p *parser) passive() *PassiveHealthChecks { return section(&p.checks().Passive) }

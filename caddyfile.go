package websocketproxy

import (
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/directive"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/renew"
)

func init() {
	httpcaddyfile.RegisterDirective("websocket_proxy", parseDirective)
	// After what rewrites, authenticates and refuses, respond included: people
	// trust that what keeps requests from reverse_proxy keeps sockets from us.
	// Before reverse_proxy and the others that answer to everything.
	httpcaddyfile.RegisterDirectiveOrder("websocket_proxy", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterHandlerDirective("websocket_renew", renew.ParseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("websocket_renew", httpcaddyfile.Before, "respond")
	for name, o := range options {
		syntax.Add(name, o.sets)
	}
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

// warnOfHTTP1 warns of matchers that no handshake over HTTP/2 and HTTP/3 passes.
func warnOfHTTP1(matchers caddy.ModuleMap, at caddyfile.Token) {
	if what := directive.OnlyInHTTP1(matchers); what != "" {
		// Adapters have warnings, but none for plugins to write.
		caddy.Log().Named("http.handlers.websocket_proxy").Warn("the matcher asks for what handshakes over HTTP/2 and HTTP/3 "+
			"do not have, so these go to the next handler; use the matcher websocket instead",
			zap.String("asks_for", what), zap.String("file", at.File), zap.Int("line", at.Line))
	}
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	websocket_proxy [<matcher>] [<upstreams...>] {
//		# upstreams
//		to                 <upstreams...>
//		upstream           <address> [weight <n>] [max_tunnels <n>|off] [max_handshakes <n>|auto|off] [handshake_rate <n> [<burst>] | off] [backup]
//		dynamic            <source> [<options...>]
//		name               <name>
//
//		# load balancing
//		lb_policy          <name> [<options...>]
//		sticky_session     [path <pattern>] [query <name>|!<name>]
//		lb_retries         <n>
//		lb_retry_status    <codes...>
//		lb_try_duration    <duration>
//		lb_try_interval    <duration>
//		max_tunnels        <n>|off
//		max_handshakes     <n>|auto|off
//		handshake_rate     <n> [<burst>] | off
//		queue              <n> [<timeout>] | off
//		retry_close        [<most>] | off
//		slow_start         <duration>|off
//		rebalance          <percent> [<interval>] | off
//		load_report        [<metrics...>]
//
//		# passive health checks
//		fail_duration      <duration>|off
//		max_fails          <n>|off
//		unhealthy_status   <codes...>|off
//		witnesses          on|off
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
//		health_agent            <port> [interval <duration>] [timeout <duration>] [send <text>]
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
//		# whose a tunnel is, and until when
//		label              <name> <value>
//		expires            <time> [<leeway>] [optional]
//		expired_code       <code>
//		on_expired         refuse|close
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
	p := parser{Reader: directive.NewReader(d, &syntax), h: h}
	if err := p.upstreams(); err != nil {
		return err
	}
	if err := p.Options(func(name string) error { return options[name].parse(&p) }); err != nil {
		return err
	}
	if err := p.finish(); err != nil {
		return err
	}
	if err := h.checkConfig(); err != nil {
		return p.Mistake(err)
	}
	return nil
}

// parser is the state of parsing one directive.
type parser struct {
	*directive.Reader

	h *Handler
	// active is what reverse_proxy has not of active checks, until finishHealth adds the rest.
	active ActiveHealthChecks
}

// option is one of the block.
type option struct {
	// sets are the paths in JSON that it sets, separated by spaces.
	sets string
	// parse reads its arguments. The reader stands on its name.
	parse func(*parser) error
}

// options are all of them by name.
var options = map[string]option{
	// upstreams
	"to":       {"", (*parser).to},
	"upstream": {"upstreams", (*parser).upstreamOption},
	"dynamic":  {"dynamic_upstreams", (*parser).dynamic},
	"name":     {"name", func(p *parser) (err error) { p.h.Name, err = p.Arg("a name"); return err }},

	// load balancing
	"lb_policy":       {"load_balancing.selection_policy", (*parser).policy},
	"sticky_session":  {"load_balancing.sticky_session", (*parser).stickySession},
	"lb_retries":      {"load_balancing.retries", (*parser).retries},
	"lb_retry_status": {"load_balancing.retry_status", (*parser).retryStatus},
	"lb_try_duration": {"load_balancing.try_duration", func(p *parser) error { return p.DurationOrZero(&p.balancing().TryDuration) }},
	"lb_try_interval": {"load_balancing.try_interval", func(p *parser) error { return p.DurationOrZero(&p.balancing().TryInterval) }},
	"max_tunnels":     {"load_balancing.max_tunnels", func(p *parser) error { return p.CountOrOff(&p.balancing().MaxTunnels) }},
	"max_handshakes":  {"load_balancing.max_handshakes", func(p *parser) error { return p.handshakeLimit(&p.balancing().MaxHandshakes) }},
	"handshake_rate":  {"load_balancing.handshake_rate load_balancing.handshake_rate.per_second load_balancing.handshake_rate.burst", func(p *parser) error { return p.handshakeRate(&p.balancing().HandshakeRate) }},
	"queue":           {"load_balancing.queue", (*parser).queue},
	"retry_close":     {"load_balancing.retry_close", (*parser).retryClose},
	"slow_start":      {"load_balancing.slow_start", (*parser).slowStart},
	"rebalance":       {"load_balancing.rebalance", (*parser).rebalance},
	"load_report":     {"load_balancing.load_report load_balancing.load_report.metrics", func(p *parser) error { return section(&p.balancing().LoadReport).Parse(p.Reader) }},

	// passive health checks
	"fail_duration": {"health_checks.passive.fail_duration", func(p *parser) error { return p.DurationOrOff(&p.passive().FailDuration) }},
	"max_fails":     {"health_checks.passive.max_fails", func(p *parser) error { return p.CountOrOff(&p.passive().MaxFails) }},

	"unhealthy_status": {"health_checks.passive.unhealthy_status", (*parser).unhealthyStatus},
	"witnesses":        {"health_checks.passive.no_witnesses", (*parser).witnesses},

	// active health checks; health_check has the uri, too
	"health_check":            {"health_checks.active health_checks.active.kind", (*parser).healthCheck},
	"health_uri":              {"health_checks.active.uri", (*parser).ShareArg},
	"health_port":             {"health_checks.active.port", (*parser).ShareArg},
	"health_upstream":         {"health_checks.active.upstream", (*parser).ShareArg},
	"health_interval":         {"health_checks.active.interval", (*parser).ShareArg},
	"health_timeout":          {"health_checks.active.timeout", (*parser).ShareArg},
	"health_passes":           {"health_checks.active.passes", (*parser).ShareArg},
	"health_fails":            {"health_checks.active.fails", (*parser).ShareArg},
	"health_headers":          {"health_checks.active.headers", func(p *parser) error { return p.ShareBlock("a block, with a field and its value in each line") }},
	"health_method":           {"health_checks.active.method", (*parser).ShareArg},
	"health_request_body":     {"health_checks.active.body", (*parser).ShareArg},
	"health_follow_redirects": {"health_checks.active.follow_redirects", (*parser).ShareFlag},
	"health_status":           {"health_checks.active.expect_status", (*parser).ShareArg},
	"health_body":             {"health_checks.active.expect_body", (*parser).ShareArg},
	"health_max_size":         {"health_checks.active.max_size", func(p *parser) error { return p.SizeOrOff(&p.active.MaxSize) }},
	"on_unhealthy":            {"health_checks.active.on_unhealthy", (*parser).onUnhealthy},
	"health_agent":            {"health_checks.agent health_checks.agent.port health_checks.agent.interval health_checks.agent.timeout health_checks.agent.send", func(p *parser) error { return section(&p.checks().Agent).Parse(p.Reader) }},

	// timeouts
	"handshake_timeout":  {"timeouts.handshake", func(p *parser) error { return p.DurationOrOff(&p.timeouts().Handshake) }},
	"idle_timeout":       {"timeouts.idle", func(p *parser) error { return p.DurationOrOff(&p.timeouts().Idle) }},
	"write_timeout":      {"timeouts.write", func(p *parser) error { return p.DurationOrOff(&p.timeouts().Write) }},
	"half_close_timeout": {"timeouts.half_close", func(p *parser) error { return p.DurationOrOff(&p.timeouts().HalfClose) }},
	"max_lifetime":       {"timeouts.max_lifetime timeouts.lifetime_jitter", (*parser).maxLifetime},

	// keepalive
	"ping_interval": {"keepalive.ping_interval", func(p *parser) error { return p.DurationOrOff(&p.keepalive().PingInterval) }},
	"ping_timeout":  {"keepalive.ping_timeout", func(p *parser) error { return p.DurationOrOff(&p.keepalive().PingTimeout) }},

	// limits
	"max_message_size":       {"limits.max_message_size", func(p *parser) error { return p.SizeOrOff(&p.limits().MaxMessageSize) }},
	"max_message_rate":       {"limits.max_message_rate limits.message_burst limits.on_message_rate", (*parser).maxMessageRate},
	"max_tunnels_per_client": {"limits.max_tunnels_per_client", func(p *parser) error { return p.CountOrOff(&p.limits().MaxTunnelsPerClient) }},

	// how tunnels end when the proxy ends them
	"evict_period":    {"drain.evict_period", func(p *parser) error { return p.DurationOrOff(&p.drain().EvictPeriod) }},
	"shutdown_period": {"drain.shutdown_period", (*parser).shutdownPeriod},
	"close_code":      {"drain.close_code drain.close_reason", (*parser).closeCode},

	// who may connect, and how
	"origins":         {"access.origins", func(p *parser) error { return p.Words(&p.access().Origins) }},
	"subprotocols":    {"access.subprotocols", func(p *parser) error { return p.Words(&p.access().Subprotocols) }},
	"require_upgrade": {"access.require_upgrade", func(p *parser) error { p.access().RequireUpgrade = true; return nil }},

	// whose a tunnel is, and until when
	"label":        {"labels labels.name labels.value", (*parser).label},
	"expires":      {"expiry.at expiry.leeway expiry.optional", (*parser).expires},
	"expired_code": {"expiry.code", func(p *parser) error { return p.AnyNumber(&p.expiry().Code, "a status code, such as 4001") }},
	"on_expired":   {"expiry.on_expired", func(p *parser) error { return p.OneOf(&p.expiry().OnExpired, expiry.Refuse, expiry.Close) }},

	// the request that goes upstream, and its answer
	"header_up":       {"", (*parser).header},
	"header_down":     {"", (*parser).header},
	"trusted_proxies": {"trusted_proxies", (*parser).trustedProxies},
	"transport":       {"transport", func(p *parser) error { return p.Transport(refusedInTransport) }},
}

// syntax is what the reader has to know of the options.
var syntax = directive.Syntax{
	Directive: "websocket_proxy",
	Refused:   refusedOptions,
	Repeatable: map[string]bool{
		"sticky_session": true, "to": true, "upstream": true, "header_up": true, "header_down": true, "trusted_proxies": true,
		"origins": true, "subprotocols": true, "lb_retry_status": true, "unhealthy_status": true, "label": true,
	},
	Settings: []string{"weight", "max_tunnels", "max_handshakes", "handshake_rate", "backup"},
	Renamed:  strings.NewReplacer("dynamic_upstreams", "dynamic"),
}

// refusedOptions are the options of reverse_proxy that have no meaning for
// tunnels, with what to write instead.
var refusedOptions = map[string]string{
	"lb_retry_match": "handshakes are alike; use lb_retries, and lb_retry_status for those that an " +
		"upstream has answered",
	"health_path":             "use health_uri",
	"unhealthy_latency":       "use handshake_timeout",
	"unhealthy_request_count": "use max_tunnels of an upstream",
	"flush_interval":          "every byte is passed on at once; remove it",
	"request_buffers":         "a handshake has no body; remove it",
	"response_buffers":        "frames are passed on as they come; remove it",
	"stream_buffer_size":      "buffers follow the traffic of each tunnel; remove it",
	"stream_timeout":          "use max_lifetime",
	"stream_close_delay":      "tunnels outlive reloads; remove it",
	"verbose_logs":            "each tunnel has a log line; use the debug global option for more",
	"proxy_status_name":       "a 101 has no Proxy-Status; remove it",
	"method":                  "a handshake is always a GET; remove it",
	"rewrite":                 "use the rewrite or uri directive",
	"handle_response":         "use the intercept directive",
	"replace_status":          "use the intercept directive",
	"copy_response":           "use the intercept directive",
	"copy_response_headers":   "use the intercept directive",
}

// finish puts into the handler what only all options together say.
func (p *parser) finish() error {
	rp, err := p.Shared()
	if err != nil {
		return err
	}
	p.h.Headers, p.h.TrustedProxies = rp.Headers, rp.TrustedProxies
	if err := p.finishHealth(rp.HealthChecks); err != nil {
		return err
	}
	if rp, err = p.SharedTransport(); err != nil {
		return err
	}
	p.h.TransportRaw = rp.TransportRaw
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
func (p *parser) expiry() *expiry.Rule      { return section(&p.h.Expiry) }
func (p *parser) access() *Access           { return section(&p.h.Access) }
func (p *parser) checks() *HealthChecks     { return section(&p.h.HealthChecks) }

func (p *parser) passive() *PassiveHealthChecks { return section(&p.checks().Passive) }

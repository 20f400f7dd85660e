package websocketproxy

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// optionOf are the options that set what a path in JSON means. What is not there, or
// not given, is looked for one step up.
var optionOf = map[string]string{
	"name":              "name",
	"upstreams":         "upstream",
	"dynamic_upstreams": "dynamic",
	"trusted_proxies":   "trusted_proxies",
	"transport":         "transport",

	"load_balancing.selection_policy": "lb_policy",
	"load_balancing.retries":          "lb_retries",
	"load_balancing.retry_status":     "lb_retry_status",
	"load_balancing.try_duration":     "lb_try_duration",
	"load_balancing.try_interval":     "lb_try_interval",
	"load_balancing.slow_start":       "slow_start",
	"load_balancing.max_tunnels":      "max_tunnels",
	"load_balancing.queue":            "queue",
	"load_balancing.rebalance":        "rebalance",

	"health_checks.passive.fail_duration": "fail_duration",
	"health_checks.passive.max_fails":     "max_fails",

	"health_checks.active.kind":             "health_check",
	"health_checks.active.uri":              "health_uri",
	"health_checks.active.upstream":         "health_upstream",
	"health_checks.active.port":             "health_port",
	"health_checks.active.headers":          "health_headers",
	"health_checks.active.method":           "health_method",
	"health_checks.active.body":             "health_request_body",
	"health_checks.active.follow_redirects": "health_follow_redirects",
	"health_checks.active.interval":         "health_interval",
	"health_checks.active.timeout":          "health_timeout",
	"health_checks.active.passes":           "health_passes",
	"health_checks.active.fails":            "health_fails",
	"health_checks.active.max_size":         "health_max_size",
	"health_checks.active.expect_status":    "health_status",
	"health_checks.active.expect_body":      "health_body",
	"health_checks.active.on_unhealthy":     "on_unhealthy",
	"health_checks.active":                  "health_check", // has the uri too

	"timeouts.handshake":       "handshake_timeout",
	"timeouts.idle":            "idle_timeout",
	"timeouts.write":           "write_timeout",
	"timeouts.half_close":      "half_close_timeout",
	"timeouts.max_lifetime":    "max_lifetime",
	"timeouts.lifetime_jitter": "max_lifetime",

	"keepalive.ping_interval": "ping_interval",
	"keepalive.ping_timeout":  "ping_timeout",

	"limits.max_message_size":       "max_message_size",
	"limits.max_message_rate":       "max_message_rate",
	"limits.message_burst":          "max_message_rate",
	"limits.on_message_rate":        "max_message_rate",
	"limits.max_tunnels_per_client": "max_tunnels_per_client",

	"drain.evict_period":    "evict_period",
	"drain.shutdown_period": "shutdown_period",
	"drain.close_code":      "close_code",
	"drain.close_reason":    "close_code",

	"access.origins":         "origins",
	"access.subprotocols":    "subprotocols",
	"access.require_upgrade": "require_upgrade",
}

// notInCaddyfile replaces the names in texts that only JSON has.
var notInCaddyfile = strings.NewReplacer("dynamic_upstreams", "dynamic")

// lastStep is the last step of a path in JSON.
var lastStep = regexp.MustCompile(`(\.[a-z_]+|\[[0-9]+\]|^[a-z_]+)$`)

// note remembers that the token t is the i-th element of a list.
func (p *parser) note(list string, i int, t caddyfile.Token) {
	p.elements[fmt.Sprintf("%s[%d]", list, i)] = t
}

// mistake makes of an error that begins with a path in JSON one about an option and
// its line.
func (p *parser) mistake(err error) error {
	path, text, _ := strings.Cut(err.Error(), ": ")
	text = notInCaddyfile.Replace(text)
	at, isElement := p.elements[path]
	for set := path; set != ""; set = lastStep.ReplaceAllString(set, "") {
		option, ok := optionOf[set]
		switch given, isGiven := p.given[option]; {
		case !ok:
		case isElement:
			return errorAt(at, "%s %s", option, text)
		case isGiven && set == path:
			return errorAt(given, "%s %s", option, text)
		case isGiven:
			return errorAt(given, "%s: %s %s", option, path[len(set)+1:], text)
		}
	}
	return errorAt(p.directive, "websocket_proxy: %s: %s", path, text)
}

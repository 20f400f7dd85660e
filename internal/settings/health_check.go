package settings

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/told"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// KindOrDefault is the kind of check, with the default filled in. It is empty if nothing
// asks for a check.
func (a *ActiveHealthChecks) KindOrDefault() string {
	if a.Kind == "" && (a.URI != "" || a.Port != 0) {
		return health.HTTP
	}
	return a.Kind
}

// CheckHealth names the first setting that is wrong by its JSON name.
func CheckHealth(checks *HealthChecks, upstreams []*Upstream) error {
	if checks == nil {
		return nil
	}
	if _, err := NewDoubts(checks.Passive); err != nil {
		return err
	}
	if err := checkAgent(checks.Agent, upstreams); err != nil {
		return err
	}
	a := checks.Active
	if a == nil {
		return nil
	}
	for _, check := range []func() (field, text string){
		a.kindProblem, a.foreignProblem, a.numberProblem, a.targetProblem, a.requestProblem, a.answerProblem,
		func() (field, text string) { return portProblem(upstreams, a.Target) },
	} {
		if field, text := check(); text != "" {
			return fmt.Errorf("health_checks.active.%s: %s", field, text)
		}
	}
	return nil
}

func checkAgent(a *told.Agent, upstreams []*Upstream) error {
	if a == nil {
		return nil
	}
	field, text := a.Problem()
	if text == "" {
		field, text = portProblem(upstreams, a.Target)
	}
	if text != "" {
		return fmt.Errorf("health_checks.agent.%s: %s", field, text)
	}
	return nil
}

// portProblem finds upstreams that have no port.
func portProblem(upstreams []*Upstream, target func(upstream.Address) (upstream.Address, error)) (field, text string) {
	for _, up := range upstreams {
		of, err := ParseAddress(up.Dial)
		if err != nil || strings.Contains(up.Dial, "{") {
			continue // it is known in a handshake only
		}
		if _, err := target(of); err != nil {
			return "port", "has no effect: " + err.Error()
		}
	}
	return "", ""
}

func (a *ActiveHealthChecks) kindProblem() (field, text string) {
	switch a.KindOrDefault() {
	case health.HTTP, health.WebSocket, health.TCP:
	case "":
		return "kind", "is needed without uri and port: http, websocket or tcp"
	case "agent":
		return "kind", "must not be agent, as agents are asked beside a check; use health_checks.agent"
	default:
		return "kind", fmt.Sprintf("%q is none of http, websocket and tcp", a.Kind)
	}
	switch a.OnUnhealthy {
	case "", KeepUnhealthy, EvictUnhealthy:
		return "", ""
	}
	return "on_unhealthy", fmt.Sprintf("%q is neither keep nor evict", a.OnUnhealthy)
}

// foreignProblem finds settings that belong to another kind of check.
func (a *ActiveHealthChecks) foreignProblem() (field, text string) {
	kind := a.KindOrDefault()
	for _, setting := range []struct {
		field string
		given bool
		tcp   bool // means that it has no meaning for tcp only
	}{
		{"uri", a.URI != "", true},
		{"headers", len(a.Headers) > 0, true},
		{"method", a.Method != "", false},
		{"body", a.Body != "", false},
		{"follow_redirects", a.FollowRedirects, false},
		{"max_size", a.MaxSize != 0, false},
		{"expect_status", a.ExpectStatus != 0, false},
		{"expect_body", a.ExpectBody != "", false},
	} {
		if setting.given && (kind == health.TCP || kind == health.WebSocket && !setting.tcp) {
			return setting.field, fmt.Sprintf("has no meaning for a %s check", kind)
		}
	}
	return "", ""
}

func (a *ActiveHealthChecks) numberProblem() (field, text string) {
	// A number without unit is rather meant to be seconds.
	const shortest = caddy.Duration(time.Millisecond)
	switch negative, tooShort := "must not be negative", "is shorter than a millisecond"; {
	case a.Interval < 0:
		return "interval", negative
	case a.Timeout < 0:
		return "timeout", negative
	case a.Passes < 0:
		return "passes", negative
	case a.Fails < 0:
		return "fails", negative
	case a.Interval != 0 && a.Interval < shortest:
		return "interval", tooShort
	case a.Timeout != 0 && a.Timeout < shortest:
		return "timeout", tooShort
	}
	return "", ""
}

func (a *ActiveHealthChecks) targetProblem() (field, text string) {
	switch {
	case a.Port < 0 || a.Port > 65535:
		return "port", fmt.Sprintf("%d is not between 1 and 65535", a.Port)
	case a.Port != 0 && a.Upstream != "":
		return "port", "has no effect with another upstream to check; leave one of them out"
	case a.Upstream == "":
		return "", ""
	case strings.Contains(a.Upstream, "://"):
		return "upstream", fmt.Sprintf("%s is a URL; write host:port, and enable TLS in the transport", a.Upstream)
	}
	if _, err := ParseAddress(a.Upstream); err != nil {
		return "upstream", "is no address: " + err.Error()
	}
	return "", ""
}

func (a *ActiveHealthChecks) requestProblem() (field, text string) {
	switch u, err := url.Parse(a.URI); {
	case err != nil:
		return "uri", "is no URI: " + err.Error()
	case u.Scheme != "" || u.Host != "":
		return "uri", fmt.Sprintf("%s has more than a path and a query; the address is the upstream's", a.URI)
	case a.Method != "" && !handshake.IsToken(a.Method):
		return "method", fmt.Sprintf("%q is no method", a.Method)
	}
	for name, values := range a.Headers {
		if !strings.Contains(name, "{") && !httpguts.ValidHeaderFieldName(name) {
			return "headers", fmt.Sprintf("%q is no name of a field", name)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return "headers", fmt.Sprintf("%q is no value of a field", value)
			}
		}
	}
	return "", ""
}

func (a *ActiveHealthChecks) answerProblem() (field, text string) {
	if s := a.ExpectStatus; s != 0 && (s < 1 || s > 5) && (s < 100 || s > 599) {
		return "expect_status", fmt.Sprintf("%d is neither a status from 100 to 599 nor a class from 1 to 5", s)
	}
	if _, err := regexp.Compile(a.ExpectBody); err != nil {
		return "expect_body", "is no regular expression: " + err.Error()
	}
	return "", ""
}

// WithDefaults returns the settings with their defaults filled in, and in one
// form, however they were spelled.
func (a *ActiveHealthChecks) WithDefaults() ActiveHealthChecks {
	full := *a
	full.Kind = a.KindOrDefault()
	if full.URI == "" && full.Kind != health.TCP {
		full.URI = "/"
	}
	full.Headers = make(http.Header)
	for _, name := range slices.Sorted(maps.Keys(a.Headers)) {
		for _, value := range a.Headers[name] {
			full.Headers.Add(name, value)
		}
	}
	full.Interval = caddy.Duration(OrDefault(a.Interval, DefaultHealthInterval))
	full.Timeout = caddy.Duration(OrDefault(a.Timeout, DefaultHealthTimeout))
	full.Method = cmp.Or(a.Method, http.MethodGet)
	full.Passes = cmp.Or(a.Passes, DefaultHealthPasses)
	full.Fails = cmp.Or(a.Fails, DefaultHealthFails)
	full.MaxSize = cmp.Or(a.MaxSize, DefaultHealthMaxSize)
	full.ExpectStatus = cmp.Or(a.ExpectStatus, 2)
	full.OnUnhealthy = cmp.Or(a.OnUnhealthy, KeepUnhealthy)
	return full
}

// Target returns what is dialed to check the upstream at an address.
func (a *ActiveHealthChecks) Target(of upstream.Address) (upstream.Address, error) {
	if a.Upstream != "" {
		return ParseAddress(a.Upstream)
	}
	return of.AtPort(a.Port)
}

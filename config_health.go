package websocketproxy

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

const (
	defaultHealthInterval = 30 * time.Second
	defaultHealthTimeout  = 5 * time.Second
	defaultHealthPasses   = 1
	defaultHealthFails    = 1
	defaultHealthMaxSize  = 1 << 20
)

// HealthChecks says how is found out which upstreams can be used.
type HealthChecks struct {
	// Checks that the proxy makes by itself. Default: none.
	Active *ActiveHealthChecks `json:"active,omitempty"`

	// Agents beside upstreams that are asked. Default: none.
	Agent *told.Agent `json:"agent,omitempty"`

	// What is learned from handshakes and tunnels.
	Passive *PassiveHealthChecks `json:"passive,omitempty"`
}

// PassiveHealthChecks has an upstream avoided to which connections have failed
// lately: it gets tunnels only when no other upstream can take them, so the last
// one that is available is always used.
//
// What counts as a failure is what no client can cause: that connecting fails, or TLS,
// or takes longer than `dial_timeout`. A connection that is closed before an answer,
// no answer in time, one that is no valid 101, and a tunnel that is reset are in the
// log, and are held against nobody. Where what is said before the handshake depends on
// the request, by a placeholder in the server name or the PROXY protocol, only
// connecting counts, and nothing does for addresses that depend on it.
type PassiveHealthChecks struct {
	// How long a failure is remembered. A negative value means that none is.
	// Default: 10s.
	FailDuration caddy.Duration `json:"fail_duration,omitempty"`

	// How many remembered failures make an upstream be avoided, up to 1000. They
	// are counted per address, by all handlers with the same transport and the
	// same values of these two. A negative value means that it never is.
	// Default: 3.
	MaxFails int `json:"max_fails,omitempty"`
}

// ActiveHealthChecks has each upstream probed, with the means of the transport,
// at once and then again and again. One that has failed is not available for new
// tunnels until it passes; one that has not been probed yet is available. An
// upstream that keeps changing does not make the pool restless if `fails` and
// `passes` demand several probes in a row.
//
// Handlers and configurations that ask for the same check of an address, with
// the same transport, share it and what it has found out. So a reload that
// leaves them alone changes nothing. Upstreams whose address has placeholders
// are not probed: they are known in a handshake only.
type ActiveHealthChecks struct {
	// What a probe does. `http` sends a request and judges the answer, as in
	// `reverse_proxy`. `websocket` performs a handshake, sends a ping, awaits
	// the pong with its payload, and closes with a closing handshake, which is
	// not judged. `tcp` connects, with TLS if the transport has it. It is needed
	// unless `uri` or `port` is given. Default: http.
	Kind string `json:"kind,omitempty"`

	// Path and query of the request. Refused with `tcp`. Default: /.
	URI string `json:"uri,omitempty"`

	// Address, as in `upstreams`, that is probed in place of each upstream's.
	// `{http.reverse_proxy.active.target_upstream}` in the header says which
	// upstream is meant. Default: the upstream's own.
	Upstream string `json:"upstream,omitempty"`

	// Port that is probed in place of each upstream's, up to 65535. Refused
	// with `upstream`, and for unix sockets. Default: the upstream's own.
	Port int `json:"port,omitempty"`

	// Header fields of the request, with Caddy's global placeholders, those of
	// the upstream, and `{http.reverse_proxy.active.target_upstream}`. In a
	// `websocket` check, Origin is said here, and the subprotocols to offer in
	// Sec-WebSocket-Protocol: the upstream then has to choose one. Refused with
	// `tcp`. Default: none, and the probed address as Host.
	Headers http.Header `json:"headers,omitempty"`

	// Method of the request. Refused unless the check is `http`. Default: GET.
	Method string `json:"method,omitempty"`

	// Body of the request, in which known placeholders are replaced. Refused
	// unless the check is `http`. Default: none.
	Body string `json:"body,omitempty"`

	// If true, redirects are followed, at the probed address wherever they lead
	// to. Refused unless the check is `http`. Default: false.
	FollowRedirects bool `json:"follow_redirects,omitempty"`

	// Time from the start of one probe to the start of the next; each time up
	// to a tenth is added or taken away at random, so that probes spread out.
	// At least a millisecond. Default: 30s.
	Interval caddy.Duration `json:"interval,omitempty"`

	// How long a whole probe may take, from dialing to the last byte of the
	// answer or the pong. At least a millisecond. Default: 5s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How many probes in a row have to pass before an upstream that was down
	// gets tunnels again. Must not be negative. Default: 1.
	Passes int `json:"passes,omitempty"`

	// How many probes in a row have to fail before an upstream is down. Must
	// not be negative. Default: 1.
	Fails int `json:"fails,omitempty"`

	// Bytes of the answer's body that `expect_body` is compared with. A negative
	// value means all of it. Refused unless the check is `http`.
	// Default: 1048576.
	MaxSize int64 `json:"max_size,omitempty"`

	// Status of a good answer, such as 204, or its class: 2 for 200 to 299.
	// Refused unless the check is `http`. Default: 2.
	ExpectStatus int `json:"expect_status,omitempty"`

	// Regular expression that the body of a good answer matches. Refused unless
	// the check is `http`. Default: any body.
	ExpectBody string `json:"expect_body,omitempty"`

	// What becomes of the tunnels of an upstream that is down: `keep` leaves
	// them alone, `evict` ends those of this handler, with the status of
	// `drain.close_code`, over `drain.evict_period`, as long as the upstream is
	// down. Default: keep.
	OnUnhealthy string `json:"on_unhealthy,omitempty"`
}

// What ActiveHealthChecks.OnUnhealthy may say.
const (
	keepUnhealthy  = "keep"
	evictUnhealthy = "evict"
)

// kind is the kind of check, with the default filled in. It is empty if nothing
// asks for a check.
func (a *ActiveHealthChecks) kind() string {
	if a.Kind == "" && (a.URI != "" || a.Port != 0) {
		return health.HTTP
	}
	return a.Kind
}

// checkHealth names the first setting that is wrong by its JSON name.
func (h *Handler) checkHealth() error {
	if h.HealthChecks == nil {
		return nil
	}
	if _, err := newFailureLimits(h.HealthChecks.Passive); err != nil {
		return err
	}
	if agent := h.HealthChecks.Agent; agent != nil {
		if field, text := agent.Problem(); text != "" {
			return fmt.Errorf("health_checks.agent.%s: %s", field, text)
		}
		if field, text := h.portProblem(agent.Target); text != "" {
			return fmt.Errorf("health_checks.agent.%s: %s", field, text)
		}
	}
	a := h.HealthChecks.Active
	if a == nil {
		return nil
	}
	for _, check := range []func() (field, text string){
		a.kindProblem, a.foreignProblem, a.numberProblem, a.targetProblem, a.requestProblem, a.answerProblem,
		func() (field, text string) { return h.portProblem(a.target) },
	} {
		if field, text := check(); text != "" {
			return fmt.Errorf("health_checks.active.%s: %s", field, text)
		}
	}
	return nil
}

// portProblem finds upstreams that have no port.
func (h *Handler) portProblem(target func(upstream.Address) (upstream.Address, error)) (field, text string) {
	for _, up := range h.Upstreams {
		of, err := parseAddress(up.Dial)
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
	switch a.kind() {
	case health.HTTP, health.WebSocket, health.TCP:
	case "":
		return "kind", "is needed without uri and port: http, websocket or tcp"
	default:
		return "kind", fmt.Sprintf("%q is none of http, websocket and tcp", a.Kind)
	}
	switch a.OnUnhealthy {
	case "", keepUnhealthy, evictUnhealthy:
		return "", ""
	}
	return "on_unhealthy", fmt.Sprintf("%q is neither keep nor evict", a.OnUnhealthy)
}

// foreignProblem finds settings that belong to another kind of check.
func (a *ActiveHealthChecks) foreignProblem() (field, text string) {
	kind := a.kind()
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
	if _, err := parseAddress(a.Upstream); err != nil {
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

// withDefaults returns the settings with their defaults filled in, and in one
// form, however they were spelled.
func (a *ActiveHealthChecks) withDefaults() ActiveHealthChecks {
	full := *a
	full.Kind = a.kind()
	if full.URI == "" && full.Kind != health.TCP {
		full.URI = "/"
	}
	full.Headers = make(http.Header)
	for _, name := range slices.Sorted(maps.Keys(a.Headers)) {
		for _, value := range a.Headers[name] {
			full.Headers.Add(name, value)
		}
	}
	full.Interval = caddy.Duration(orDefault(a.Interval, defaultHealthInterval))
	full.Timeout = caddy.Duration(orDefault(a.Timeout, defaultHealthTimeout))
	full.Method = cmp.Or(a.Method, http.MethodGet)
	full.Passes = cmp.Or(a.Passes, defaultHealthPasses)
	full.Fails = cmp.Or(a.Fails, defaultHealthFails)
	full.MaxSize = cmp.Or(a.MaxSize, defaultHealthMaxSize)
	full.ExpectStatus = cmp.Or(a.ExpectStatus, 2)
	full.OnUnhealthy = cmp.Or(a.OnUnhealthy, keepUnhealthy)
	return full
}

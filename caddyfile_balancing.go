package websocketproxy

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
)

func (p *parser) policy() error {
	policy, tokens, err := p.guest("http.reverse_proxy.selection_policies", "the name of a policy",
		"least_conn, round_robin, random_choose, or another one that reverse_proxy has, such as ip_hash or cookie")
	if err != nil {
		return err
	}
	if err := unmarshalGuest("lb_policy", policy, tokens); err != nil {
		return err
	}
	p.balancing().SelectionPolicyRaw = caddyconfig.JSONModuleObject(policy, "policy", tokens[0].Text, nil)
	return nil
}

func (p *parser) retries() error {
	if _, err := p.arg("a number"); err != nil {
		return err
	}
	lb := p.balancing()
	lb.Retries = new(int)
	return p.number(lb.Retries, 0, math.MaxInt, "lb_retries is a number, 0 for none")
}

// retryStatus parses statuses, such as 503, and classes of them, such as 5xx.
func (p *parser) retryStatus() error {
	if p.d.CountRemainingArgs() == 0 {
		return p.d.Err("lb_retry_status needs a status, such as 503, or a class of them, such as 5xx")
	}
	for p.d.NextArg() {
		digits, isClass := strings.CutSuffix(p.d.Val(), "xx")
		status, err := strconv.Atoi(digits)
		if err != nil || isClass != (status < 10) {
			return p.d.Errf("lb_retry_status is a status such as 503, or a class such as 5xx, not %q", p.d.Val())
		}
		lb := p.balancing()
		p.note("load_balancing.retry_status", len(lb.RetryStatus), p.d.Token())
		lb.RetryStatus = append(lb.RetryStatus, status)
	}
	return nil
}

// tryTime parses a duration that may be zero.
func (p *parser) tryTime(field *caddy.Duration) error {
	option := p.d.Val()
	if _, err := p.arg("a duration, such as 5s"); err != nil {
		return err
	}
	return p.duration(field, 0, option+" is a duration such as 5s")
}

func (p *parser) rebalance() error {
	s, err := p.arg("a percentage, such as 10%")
	if err != nil {
		return err
	}
	r := new(Rebalance)
	p.balancing().Rebalance = r
	if s == "off" {
		r.Share = -1
		return nil
	}
	switch r.Share, err = parsePercentage(s); {
	case err != nil:
		return p.d.Errf("rebalance is off or %s", strings.TrimPrefix(err.Error(), "is "))
	case r.Share == 0:
		return p.d.Errf("rebalance is %s; write off for none, or leave it out", s)
	case !p.d.NextArg():
		return nil
	}
	return p.duration(&r.Interval, time.Second, "the interval of rebalance is a duration of at least 1s")
}

func (p *parser) queue() error {
	q := new(Queue)
	p.balancing().Queue = q
	if err := p.countOrOff(&q.Size); err != nil || !p.d.NextArg() {
		return err
	}
	if q.Size < 0 {
		return p.d.Err("queue off has no timeout")
	}
	return p.duration(&q.Timeout, 1, "the timeout of queue is a duration such as 5s")
}

func (p *parser) slowStart() error {
	lb := p.balancing()
	if err := p.durationOrOff(&lb.SlowStart); err != nil {
		return err
	}
	if lb.SlowStart > 0 && lb.SlowStart < caddy.Duration(time.Second) {
		return p.d.Errf("slow_start is at least 1s, not %s", p.d.Val())
	}
	return nil
}

// healthOptions are the options about active checks.
type healthOptions struct {
	// active is what is not in shared, which are the tokens of what
	// reverse_proxy has too.
	active ActiveHealthChecks
	shared []caddyfile.Token
	// given are the options in the order in which they come.
	given []caddyfile.Token
}

func (p *parser) healthCheck() error {
	kind, err := p.arg("a kind: http, websocket or tcp")
	if err != nil {
		return err
	}
	a := &p.health.active
	switch a.Kind = kind; kind {
	case health.HTTP, health.WebSocket, health.TCP:
	default:
		return p.d.Errf("health_check is http, websocket or tcp, not %q", kind)
	}
	if !p.d.NextArg() {
		return nil
	}
	if kind == health.TCP {
		return p.d.Err("health_check tcp has no uri")
	}
	a.URI = p.d.Val()
	return nil
}

// healthOption collects an option that reverse_proxy has too, with an argument.
func (p *parser) healthOption() error {
	_, err := p.sharedOption(&p.health.shared, 1)
	return err
}

// healthFlag is healthOption for one without.
func (p *parser) healthFlag() error {
	p.health.shared = append(p.health.shared, p.d.Token())
	return nil
}

func (p *parser) healthHeaders() error {
	segment := p.d.NextSegment()
	if len(segment) < 2 || segment[1].Text != "{" {
		return p.d.Err("health_headers needs a block, with a field and its value in each line")
	}
	p.health.shared = append(p.health.shared, segment...)
	return nil
}

func (p *parser) onUnhealthy() error {
	s, err := p.arg("keep or evict")
	if err != nil {
		return err
	}
	if s != keepUnhealthy && s != evictUnhealthy {
		return p.d.Errf("on_unhealthy is keep or evict, not %q", s)
	}
	p.health.active.OnUnhealthy = s
	return nil
}

// finishHealth makes a check of the options, when all are known.
func (p *parser) finishHealth() error {
	o := &p.health
	if len(o.given) == 0 {
		return nil
	}
	rp, err := parseShared(o.shared, caddyfile.Token{})
	if err != nil {
		return err
	}
	if rp.HealthChecks != nil && rp.HealthChecks.Active != nil {
		if at, twice := p.given["health_uri"]; twice && o.active.URI != "" {
			return errorAt(at, "health_uri is given twice, as health_check has it too")
		}
		o.active.take(rp.HealthChecks.Active)
	}
	if err := p.refuseZeroHealth(); err != nil {
		return err
	}
	if o.active.kind() == "" {
		return errorAt(o.given[0], "%s has no effect without health_check, health_uri or health_port", o.given[0].Text)
	}
	p.checks().Active = &o.active
	return nil
}

// refuseZeroHealth refuses options that are set to zero, which means something else in
// JSON.
func (p *parser) refuseZeroHealth() error {
	a := &p.health.active
	for _, o := range []struct {
		name   string
		isZero bool
	}{
		{"health_uri", a.URI == ""},
		{"health_port", a.Port == 0},
		{"health_method", a.Method == ""},
		{"health_interval", a.Interval == 0},
		{"health_timeout", a.Timeout == 0},
		{"health_passes", a.Passes == 0},
		{"health_fails", a.Fails == 0},
		{"health_status", a.ExpectStatus == 0},
	} {
		if at, given := p.given[o.name]; given && o.isZero {
			return errorAt(at, "%s is zero or empty; leave it out for the default", o.name)
		}
	}
	return nil
}

// take takes over what the options have set that reverse_proxy has too.
func (a *ActiveHealthChecks) take(theirs *reverseproxy.ActiveHealthChecks) {
	if theirs.URI != "" {
		a.URI = theirs.URI
	}
	a.Upstream, a.Port = theirs.Upstream, theirs.Port
	a.Headers, a.Method, a.Body, a.FollowRedirects = theirs.Headers, theirs.Method, theirs.Body, theirs.FollowRedirects
	a.Interval, a.Timeout = theirs.Interval, theirs.Timeout
	a.Passes, a.Fails = theirs.Passes, theirs.Fails
	a.ExpectStatus, a.ExpectBody = theirs.ExpectStatus, theirs.ExpectBody
}

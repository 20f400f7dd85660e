package websocketproxy

import (
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// policy parses a selection policy: like reverse_proxy, but what the policy
// does not read is an error.
func (p *parser) policy() error {
	segment := p.d.NextSegment()
	d := caddyfile.NewDispenser(segment[1:])
	if len(segment) == 1 {
		return p.d.Err("lb_policy needs the name of a policy")
	}
	name := segment[1].Text
	info, err := caddy.GetModule("http.reverse_proxy.selection_policies." + name)
	if err != nil {
		return errorAt(segment[1], "lb_policy %s is not known; use least_conn, round_robin, random_choose, "+
			"or another one that reverse_proxy has, such as ip_hash or cookie", name)
	}
	policy, ok := info.New().(caddyfile.Unmarshaler)
	if !ok {
		return errorAt(segment[1], "lb_policy %s cannot be used in a Caddyfile", name)
	}
	if err := policy.UnmarshalCaddyfile(d); err != nil {
		return err
	}
	if d.Next() {
		return d.Errf("lb_policy %s does not take %s", name, d.Val())
	}
	p.loadBalancing().SelectionPolicyRaw = caddyconfig.JSONModuleObject(policy, "policy", name, nil)
	return nil
}

func (p *parser) retries() error {
	s, err := p.arg("a number")
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return p.d.Errf("lb_retries is a number, 0 for none, not %q", s)
	}
	p.loadBalancing().Retries = &n
	return nil
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
		lb := p.loadBalancing()
		p.note("load_balancing.retry_status", len(lb.RetryStatus), p.d.Token())
		lb.RetryStatus = append(lb.RetryStatus, status)
	}
	return nil
}

// tryTime returns the parser of an option with a duration that may be zero.
func (p *parser) tryTime(field func(*LoadBalancing) *caddy.Duration) func() error {
	return func() error {
		option := p.d.Val()
		s, err := p.arg("a duration, such as 5s")
		if err != nil {
			return err
		}
		duration, err := caddy.ParseDuration(s)
		if err != nil || duration < 0 {
			return p.d.Errf("%s is a duration such as 5s, not %q", option, s)
		}
		*field(p.loadBalancing()) = caddy.Duration(duration)
		return nil
	}
}

func (p *parser) rebalance() error {
	s, err := p.arg("a percentage, such as 10%")
	if err != nil {
		return err
	}
	r := new(Rebalance)
	p.loadBalancing().Rebalance = r
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
	interval, err := caddy.ParseDuration(p.d.Val())
	if err != nil || interval < time.Second {
		return p.d.Errf("the interval of rebalance is a duration of at least 1s, not %q", p.d.Val())
	}
	r.Interval = caddy.Duration(interval)
	return nil
}

func (p *parser) maxTunnels() (err error) {
	p.loadBalancing().MaxTunnels, err = p.countOrOff()
	return err
}

func (p *parser) queue() (err error) {
	q := new(Queue)
	p.loadBalancing().Queue = q
	if q.Size, err = p.countOrOff(); err != nil || !p.d.NextArg() {
		return err
	}
	if q.Size < 0 {
		return p.d.Err("queue off has no timeout")
	}
	timeout, err := caddy.ParseDuration(p.d.Val())
	if err != nil || timeout <= 0 {
		return p.d.Errf("the timeout of queue is a duration such as 5s, not %q", p.d.Val())
	}
	q.Timeout = caddy.Duration(timeout)
	return nil
}

func (p *parser) slowStart() error {
	duration, err := p.duration()
	switch {
	case err != nil:
		return err
	case duration > 0 && duration < caddy.Duration(time.Second):
		return p.d.Errf("slow_start is at least 1s, not %s", p.d.Val())
	}
	p.loadBalancing().SlowStart = duration
	return nil
}

func (p *parser) passive() *PassiveHealthChecks {
	if p.h.HealthChecks == nil {
		p.h.HealthChecks = new(HealthChecks)
	}
	if p.h.HealthChecks.Passive == nil {
		p.h.HealthChecks.Passive = new(PassiveHealthChecks)
	}
	return p.h.HealthChecks.Passive
}

func (p *parser) failDuration() (err error) {
	p.passive().FailDuration, err = p.duration()
	return err
}

func (p *parser) maxFails() (err error) {
	p.passive().MaxFails, err = p.countOrOff()
	return err
}

func (p *parser) loadBalancing() *LoadBalancing {
	if p.h.LoadBalancing == nil {
		p.h.LoadBalancing = new(LoadBalancing)
	}
	return p.h.LoadBalancing
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

// zeroHealth are the options that may be set to zero, which means something else in
// JSON.
var zeroHealth = []struct {
	option string
	is     func(*ActiveHealthChecks) bool
}{
	{"health_uri", func(a *ActiveHealthChecks) bool { return a.URI == "" }},
	{"health_port", func(a *ActiveHealthChecks) bool { return a.Port == 0 }},
	{"health_method", func(a *ActiveHealthChecks) bool { return a.Method == "" }},
	{"health_interval", func(a *ActiveHealthChecks) bool { return a.Interval == 0 }},
	{"health_timeout", func(a *ActiveHealthChecks) bool { return a.Timeout == 0 }},
	{"health_passes", func(a *ActiveHealthChecks) bool { return a.Passes == 0 }},
	{"health_fails", func(a *ActiveHealthChecks) bool { return a.Fails == 0 }},
	{"health_status", func(a *ActiveHealthChecks) bool { return a.ExpectStatus == 0 }},
}

func (p *parser) healthCheck() error {
	p.health.given = append(p.health.given, p.d.Token())
	kind, err := p.arg("a kind: http, websocket or tcp")
	if err != nil {
		return err
	}
	a := &p.health.active
	switch a.Kind = kind; kind {
	case checkHTTP, checkWebSocket, checkTCP:
	default:
		return p.d.Errf("health_check is http, websocket or tcp, not %q", kind)
	}
	if !p.d.NextArg() {
		return nil
	}
	if kind == checkTCP {
		return p.d.Err("health_check tcp has no uri")
	}
	a.URI = p.d.Val()
	return nil
}

// healthOption returns the parser of an option that reverse_proxy has too, with
// so many arguments.
func (p *parser) healthOption(arguments int) func() error {
	return func() error {
		option := p.d.Token()
		tokens := []caddyfile.Token{option}
		for len(tokens) <= arguments {
			if !p.d.NextArg() {
				return p.d.Errf("%s needs an argument", option.Text)
			}
			tokens = append(tokens, p.d.Token())
		}
		p.health.given = append(p.health.given, option)
		p.health.shared = append(p.health.shared, tokens...)
		return nil
	}
}

func (p *parser) healthHeaders() error {
	p.health.given = append(p.health.given, p.d.Token())
	segment := p.d.NextSegment()
	if len(segment) < 2 || segment[1].Text != "{" {
		return p.d.Err("health_headers needs a block, with a field and its value in each line")
	}
	p.health.shared = append(p.health.shared, segment...)
	return nil
}

func (p *parser) healthMaxSize() (err error) {
	p.health.given = append(p.health.given, p.d.Token())
	p.health.active.MaxSize, err = p.size()
	return err
}

func (p *parser) onUnhealthy() error {
	p.health.given = append(p.health.given, p.d.Token())
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
	for _, zero := range zeroHealth {
		if at, given := p.given[zero.option]; given && zero.is(&o.active) {
			return errorAt(at, "%s is zero or empty; leave it out for the default", zero.option)
		}
	}
	if o.active.kind() == "" {
		return errorAt(o.given[0], "%s has no effect without health_check, health_uri or health_port", o.given[0].Text)
	}
	if p.h.HealthChecks == nil {
		p.h.HealthChecks = new(HealthChecks)
	}
	p.h.HealthChecks.Active = &o.active
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

package websocketproxy

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/directive"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/health"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
)

func (p *parser) policy() error {
	if p.NextIs(settings.Hash) {
		own := new(settings.OwnPolicy)
		if err := directive.UnmarshalGuest("lb_policy", own, p.NextSegment()[1:]); err != nil {
			return err
		}
		p.balancing().SelectionPolicyRaw = own.JSON()
		return nil
	}
	policy, tokens, err := p.Guest("http.reverse_proxy.selection_policies", "the name of a policy",
		"least_conn, round_robin, random_choose, hash, or another one that reverse_proxy has, such as ip_hash or cookie")
	if err != nil {
		return err
	}
	if err := settings.UnmarshalPolicy(policy, tokens); err != nil {
		return err
	}
	p.balancing().SelectionPolicyRaw = caddyconfig.JSONModuleObject(policy, "policy", tokens[0].Text, nil)
	return nil
}

// stickySession parses one way in which sessions are opened.
func (p *parser) stickySession() error {
	at := p.Token()
	var o sticky.Opening
	if err := o.Parse(p.Reader); err != nil {
		return err
	}
	lb := p.balancing()
	p.Note("load_balancing.sticky_session", len(lb.StickySession), at)
	lb.StickySession = append(lb.StickySession, o)
	return nil
}

func (p *parser) retries() error {
	if _, err := p.Arg("a number"); err != nil {
		return err
	}
	lb := p.balancing()
	lb.Retries = new(int)
	return p.Number(lb.Retries, 0, math.MaxInt, "lb_retries is a number, 0 for none")
}

func (p *parser) retryStatus() error {
	return p.statuses("lb_retry_status", "load_balancing.retry_status", &p.balancing().RetryStatus)
}

func (p *parser) unhealthyStatus() error {
	all := &p.passive().UnhealthyStatus
	if p.CountRemainingArgs() == 1 && p.NextArg() {
		if p.Val() == "off" {
			*all = []int{-1}
			return nil
		}
		p.Prev()
	}
	return p.statuses("unhealthy_status", "health_checks.passive.unhealthy_status", all)
}

// statuses parses statuses, such as 503, and classes of them, such as 5xx.
func (p *parser) statuses(option, path string, all *[]int) error {
	if p.CountRemainingArgs() == 0 {
		return p.Errf("%s needs a status, such as 503, or a class of them, such as 5xx", option)
	}
	for p.NextArg() {
		digits, isClass := strings.CutSuffix(p.Val(), "xx")
		status, err := strconv.Atoi(digits)
		if err != nil || isClass != (status < 10) {
			return p.Errf("%s is a status such as 503, or a class such as 5xx, not %q", option, p.Val())
		}
		p.Note(path, len(*all), p.Token())
		*all = append(*all, status)
	}
	return nil
}

func (p *parser) witnesses() error {
	word, err := p.Arg("on or off")
	switch {
	case err != nil:
		return err
	case word != "on" && word != "off":
		return p.Errf("witnesses is on or off, not %q", word)
	}
	p.passive().NoWitnesses = word == "off"
	return nil
}

func (p *parser) rebalance() error {
	s, err := p.Arg("a percentage, such as 10%")
	if err != nil {
		return err
	}
	r := new(Rebalance)
	p.balancing().Rebalance = r
	if s == "off" {
		r.Share = -1
		return nil
	}
	if err := p.Percentage(&r.Share, "rebalance is off or a percentage from 0% to 100%"); err != nil {
		return err
	}
	if r.Share == 0 {
		return p.Errf("rebalance is %s; write off for none, or leave it out", s)
	}
	if !p.NextArg() {
		return nil
	}
	return p.Duration(&r.Interval, time.Second, "the interval of rebalance is a duration of at least 1s")
}

// handshakeLimit reads a number of handshakes, auto or off.
func (p *parser) handshakeLimit(field *settings.HandshakeLimit) error {
	option := p.Val()
	switch s, err := p.Arg("a number or auto"); {
	case err != nil:
		return err
	case s == "auto":
		*field = settings.AutoHandshakes
		return nil
	case s == "off":
		*field = -1
		return nil
	}
	return p.Number((*int)(field), 1, math.MaxInt, option+" is a number of at least 1, auto, or off")
}

// handshakeRate reads a rate and its burst. What follows may be another setting.
func (p *parser) handshakeRate(field **settings.HandshakeRate) error {
	r := new(settings.HandshakeRate)
	*field = r
	const bounds = " is a number from 1 to 1000000"
	switch s, err := p.Arg("a number of handshakes in a second"); {
	case err != nil:
		return err
	case s == "off":
		r.PerSecond = -1
		return nil
	}
	if err := p.Number(&r.PerSecond, 1, settings.MostHandshakeRate, "handshake_rate"+bounds+", or off"); err != nil || !p.NextArg() {
		return err
	}
	if s := p.Val(); s == "" || s[0] < '0' || s[0] > '9' {
		p.Prev()
		return nil
	}
	return p.Number(&r.Burst, 1, settings.MostHandshakeRate, "the burst of handshake_rate"+bounds)
}

// mostRetryCloses is the default of retry_close.
const mostRetryCloses = 1000

func (p *parser) retryClose() error {
	most := &p.balancing().RetryClose
	*most = mostRetryCloses
	if !p.NextArg() {
		return nil
	}
	if p.Val() == "off" {
		*most = -1
		return nil
	}
	return p.Number(most, 1, math.MaxInt, "retry_close is a number of at least 1, or off")
}

func (p *parser) queue() error {
	q := new(Queue)
	p.balancing().Queue = q
	if err := p.CountOrOff(&q.Size); err != nil || !p.NextArg() {
		return err
	}
	if q.Size < 0 {
		return p.Err("queue off has no timeout")
	}
	return p.Duration(&q.Timeout, 1, "the timeout of queue is a duration such as 5s")
}

func (p *parser) slowStart() error {
	lb := p.balancing()
	if err := p.DurationOrOff(&lb.SlowStart); err != nil {
		return err
	}
	if lb.SlowStart > 0 && lb.SlowStart < caddy.Duration(time.Second) {
		return p.Errf("slow_start is at least 1s, not %s", p.Val())
	}
	return nil
}

func (p *parser) healthCheck() error {
	if _, err := p.Arg("a kind: http, websocket or tcp"); err != nil {
		return err
	}
	if p.Val() == "agent" {
		return p.Err("health_check has no kind agent, as agents are asked beside a check; use health_agent <port>")
	}
	a := &p.active
	err := p.Word(&a.Kind, "health_check is http, websocket or tcp", health.HTTP, health.WebSocket, health.TCP)
	if err != nil || !p.NextArg() {
		return err
	}
	if a.Kind == health.TCP {
		return p.Err("health_check tcp has no uri")
	}
	a.URI = p.Val()
	return nil
}

func (p *parser) onUnhealthy() error {
	if _, err := p.Arg("keep or evict"); err != nil {
		return err
	}
	return p.Word(&p.active.OnUnhealthy, "on_unhealthy is keep or evict", settings.KeepUnhealthy, settings.EvictUnhealthy)
}

// finishHealth makes a check of the options, when all are known. theirs are what
// reverse_proxy has made of those that it has too.
func (p *parser) finishHealth(theirs *reverseproxy.HealthChecks) error {
	first, given := p.First("health_checks.active")
	if !given {
		return nil
	}
	if theirs != nil && theirs.Active != nil {
		if at, twice := p.Given("health_uri"); twice && p.active.URI != "" {
			return directive.ErrorAt(at, "health_uri is given twice, as health_check has it too")
		}
		takeActive(&p.active, theirs.Active)
	}
	if err := p.refuseZeroHealth(); err != nil {
		return err
	}
	if p.active.KindOrDefault() == "" {
		return directive.ErrorAt(first, "%s has no effect without health_check, health_uri or health_port", first.Text)
	}
	p.checks().Active = &p.active
	return nil
}

// refuseZeroHealth refuses options that are set to zero, which means something else in
// JSON.
func (p *parser) refuseZeroHealth() error {
	a := &p.active
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
		if at, given := p.Given(o.name); given && o.isZero {
			return directive.ErrorAt(at, "%s is zero or empty; leave it out for the default", o.name)
		}
	}
	return nil
}

// takeActive takes over what the options have set that reverse_proxy has too.
func takeActive(a *ActiveHealthChecks, theirs *reverseproxy.ActiveHealthChecks) {
	if theirs.URI != "" {
		a.URI = theirs.URI
	}
	a.Upstream, a.Port = theirs.Upstream, theirs.Port
	a.Headers, a.Method, a.Body, a.FollowRedirects = theirs.Headers, theirs.Method, theirs.Body, theirs.FollowRedirects
	a.Interval, a.Timeout = theirs.Interval, theirs.Timeout
	a.Passes, a.Fails = theirs.Passes, theirs.Fails
	a.ExpectStatus, a.ExpectBody = theirs.ExpectStatus, theirs.ExpectBody
}

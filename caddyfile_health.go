package websocketproxy

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

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

package websocketproxy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

func (p *parser) timeouts() *Timeouts {
	if p.h.Timeouts == nil {
		p.h.Timeouts = new(Timeouts)
	}
	return p.h.Timeouts
}

// timeout returns the parser of an option with one duration.
func (p *parser) timeout(field func(*Timeouts) *caddy.Duration) func() error {
	return func() (err error) {
		*field(p.timeouts()), err = p.duration()
		return err
	}
}

// duration parses a duration or off. In the configuration zero means the
// default, so it is refused rather than taken for either.
func (p *parser) duration() (caddy.Duration, error) {
	option := p.d.Val()
	s, err := p.arg("a duration, such as 30s")
	if err != nil {
		return 0, err
	}
	if s == "off" {
		return -1, nil
	}
	duration, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, p.d.Errf("%s is a duration such as 30s, or off, not %q", option, s)
	}
	if duration <= 0 {
		return 0, p.d.Errf("%s is %s; write off for no limit, or leave it out for the default", option, s)
	}
	return caddy.Duration(duration), nil
}

func (p *parser) maxLifetime() (err error) {
	t := p.timeouts()
	if t.MaxLifetime, err = p.duration(); err != nil || !p.d.NextArg() {
		return err
	}
	if t.MaxLifetime < 0 {
		return p.d.Err("max_lifetime off has no jitter")
	}
	t.LifetimeJitter, err = parsePercentage(p.d.Val())
	if err != nil {
		return p.d.Errf("the jitter of max_lifetime %v", err)
	}
	if t.LifetimeJitter == 0 {
		t.LifetimeJitter = -1 // zero would mean the default
	}
	return nil
}

// parsePercentage parses a percentage, such as 10%, to a part of one.
func parsePercentage(s string) (float64, error) {
	number, ok := strings.CutSuffix(s, "%")
	percent, err := strconv.ParseFloat(number, 64)
	// The comparison is written so that NaN fails it.
	if !ok || err != nil || !(percent >= 0 && percent <= 100) {
		return 0, fmt.Errorf("is a percentage from 0%% to 100%%, not %q", s)
	}
	return percent / 100, nil
}

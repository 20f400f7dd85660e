package websocketproxy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
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

func (p *parser) access() *Access {
	if p.h.Access == nil {
		p.h.Access = new(Access)
	}
	return p.h.Access
}

// list returns the parser of an option with a list of words.
func (p *parser) list(field func(*Access) *[]string) func() error {
	return func() error {
		option, list := p.d.Val(), field(p.access())
		if p.d.CountRemainingArgs() == 0 {
			return p.d.Errf("%s needs at least one value", option)
		}
		for p.d.NextArg() {
			if err := withoutCommas(option, p.d.Token()); err != nil {
				return err
			}
			p.note("access."+option, len(*list), p.d.Token())
			*list = append(*list, p.d.Val())
		}
		return nil
	}
}

func (p *parser) requireUpgrade() error {
	p.access().RequireUpgrade = true
	return nil
}

func (p *parser) drain() *Drain {
	if p.h.Drain == nil {
		p.h.Drain = new(Drain)
	}
	return p.h.Drain
}

func (p *parser) evictPeriod() (err error) {
	p.drain().EvictPeriod, err = p.duration()
	return err
}

func (p *parser) shutdownPeriod() error {
	s, err := p.arg("a duration, such as 4s")
	if err != nil {
		return err
	}
	duration, err := caddy.ParseDuration(s)
	if err != nil || duration < time.Second {
		return p.d.Errf("shutdown_period is a duration of at least 1s, not %q", s)
	}
	p.drain().ShutdownPeriod = caddy.Duration(duration)
	return nil
}

func (p *parser) closeCode() error {
	s, err := p.arg("a status code, such as 1012")
	if err != nil {
		return err
	}
	code, err := strconv.Atoi(s)
	if err != nil {
		return p.d.Errf("close_code is a number, such as 1012, not %q", s)
	}
	if problem := frame.CloseCodeProblem(code); problem != "" {
		return p.d.Errf("close_code %s", problem)
	}
	p.drain().CloseCode = code
	if !p.d.NextArg() {
		return nil
	}
	if problem := frame.CloseReasonProblem(p.d.Val()); problem != "" {
		return p.d.Errf("the reason of close_code %s", problem)
	}
	p.drain().CloseReason = p.d.Val()
	return nil
}

func (p *parser) keepalive() *Keepalive {
	if p.h.Keepalive == nil {
		p.h.Keepalive = new(Keepalive)
	}
	return p.h.Keepalive
}

func (p *parser) pingInterval() (err error) {
	p.keepalive().PingInterval, err = p.duration()
	return err
}

func (p *parser) pingTimeout() (err error) {
	p.keepalive().PingTimeout, err = p.duration()
	return err
}

func (p *parser) limits() *Limits {
	if p.h.Limits == nil {
		p.h.Limits = new(Limits)
	}
	return p.h.Limits
}

func (p *parser) maxMessageSize() (err error) {
	p.limits().MaxMessageSize, err = p.size()
	return err
}

// size parses a number of bytes or off.
func (p *parser) size() (int64, error) {
	option := p.d.Val()
	s, err := p.arg("a size, such as 1MiB")
	if err != nil {
		return 0, err
	}
	if s == "off" {
		return -1, nil
	}
	size, err := humanize.ParseBytes(s)
	if err != nil || size > math.MaxInt64 {
		return 0, p.d.Errf("%s is a size such as 64KB or 1MiB, or off, not %q", option, s)
	}
	if size == 0 {
		return 0, p.d.Errf("%s is %s; write off for no limit", option, s)
	}
	return int64(size), nil
}

func (p *parser) maxMessageRate() error {
	s, err := p.arg("a number of messages per second")
	if err != nil {
		return err
	}
	l := p.limits()
	if s == "off" {
		l.MaxMessageRate = -1
		return nil
	}
	if l.MaxMessageRate, err = p.rate("max_message_rate is off or a number"); err != nil || !p.d.NextArg() {
		return err
	}
	if p.d.Val() != delayFast && p.d.Val() != closeFast {
		l.MessageBurst, err = p.rate("the burst of max_message_rate is a number")
		if err != nil || !p.d.NextArg() {
			return err
		}
	}
	if p.d.Val() != delayFast && p.d.Val() != closeFast {
		return p.d.Errf("max_message_rate ends with delay or close, not %q", p.d.Val())
	}
	l.OnMessageRate = p.d.Val()
	return nil
}

func (p *parser) maxTunnelsPerClient() (err error) {
	p.limits().MaxTunnelsPerClient, err = p.countOrOff()
	return err
}

// rate parses a number of messages, which is introduced by what.
func (p *parser) rate(what string) (int, error) {
	n, err := strconv.Atoi(p.d.Val())
	if err != nil || n < 1 || n > maxRate {
		return 0, p.d.Errf("%s from 1 to %d, not %q", what, maxRate, p.d.Val())
	}
	return n, nil
}

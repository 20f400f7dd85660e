package websocketproxy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
)

// arg returns the option's next argument.
func (p *parser) arg(what string) (string, error) {
	option := p.d.Val()
	if !p.d.NextArg() {
		return "", p.d.Errf("%s needs %s", option, what)
	}
	return p.d.Val(), nil
}

// number parses the argument that the dispenser stands on. what says in an error what
// it is.
func (p *parser) number(field *int, least, most int, what string) error {
	n, err := strconv.Atoi(p.d.Val())
	if err != nil || n < least || n > most {
		return p.d.Errf("%s, not %q", what, p.d.Val())
	}
	*field = n
	return nil
}

// duration is number for durations.
func (p *parser) duration(field *caddy.Duration, least time.Duration, what string) error {
	duration, err := caddy.ParseDuration(p.d.Val())
	if err != nil || duration < least {
		return p.d.Errf("%s, not %q", what, p.d.Val())
	}
	*field = caddy.Duration(duration)
	return nil
}

// count parses a number of at least one.
func (p *parser) count(field *int) error {
	option := p.d.Val()
	if _, err := p.arg("a number"); err != nil {
		return err
	}
	return p.number(field, 1, math.MaxInt, option+" is a number of at least 1")
}

// countOrOff is count of an option that can be off.
func (p *parser) countOrOff(field *int) error {
	option := p.d.Val()
	if s, err := p.arg("a number"); err != nil {
		return err
	} else if s == "off" {
		*field = -1
		return nil
	}
	return p.number(field, 1, math.MaxInt, option+" is a number of at least 1, or off")
}

// durationOrOff parses a duration or off. In the configuration zero means the
// default, so it is refused rather than taken for either.
func (p *parser) durationOrOff(field *caddy.Duration) error {
	option := p.d.Val()
	s, err := p.arg("a duration, such as 30s")
	if err != nil {
		return err
	}
	if s == "off" {
		*field = -1
		return nil
	}
	duration, err := caddy.ParseDuration(s)
	if err != nil {
		return p.d.Errf("%s is a duration such as 30s, or off, not %q", option, s)
	}
	if duration <= 0 {
		return p.d.Errf("%s is %s; write off for no limit, or leave it out for the default", option, s)
	}
	*field = caddy.Duration(duration)
	return nil
}

// sizeOrOff parses a number of bytes or off.
func (p *parser) sizeOrOff(field *int64) error {
	option := p.d.Val()
	s, err := p.arg("a size, such as 1MiB")
	if err != nil {
		return err
	}
	if s == "off" {
		*field = -1
		return nil
	}
	size, err := humanize.ParseBytes(s)
	if err != nil || size > math.MaxInt64 {
		return p.d.Errf("%s is a size such as 64KB or 1MiB, or off, not %q", option, s)
	}
	if size == 0 {
		return p.d.Errf("%s is %s; write off for no limit", option, s)
	}
	*field = int64(size)
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

// words parses a list of them.
func (p *parser) words(list *[]string) error {
	option := p.d.Val()
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

func (p *parser) maxLifetime() error {
	t := p.timeouts()
	if err := p.durationOrOff(&t.MaxLifetime); err != nil || !p.d.NextArg() {
		return err
	}
	if t.MaxLifetime < 0 {
		return p.d.Err("max_lifetime off has no jitter")
	}
	jitter, err := parsePercentage(p.d.Val())
	if err != nil {
		return p.d.Errf("the jitter of max_lifetime %v", err)
	}
	if t.LifetimeJitter = jitter; jitter == 0 {
		t.LifetimeJitter = -1 // zero would mean the default
	}
	return nil
}

func (p *parser) maxMessageRate() error {
	s, err := p.arg("a number of messages per second")
	if err != nil {
		return err
	}
	l, most := p.limits(), " from 1 to "+strconv.Itoa(maxRate)
	if s == "off" {
		l.MaxMessageRate = -1
		return nil
	}
	err = p.number(&l.MaxMessageRate, 1, maxRate, "max_message_rate is off or a number"+most)
	if err != nil || !p.d.NextArg() {
		return err
	}
	if p.d.Val() != delayFast && p.d.Val() != closeFast {
		err = p.number(&l.MessageBurst, 1, maxRate, "the burst of max_message_rate is a number"+most)
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

func (p *parser) shutdownPeriod() error {
	if _, err := p.arg("a duration, such as 4s"); err != nil {
		return err
	}
	return p.duration(&p.drain().ShutdownPeriod, time.Second, "shutdown_period is a duration of at least 1s")
}

func (p *parser) closeCode() error {
	if _, err := p.arg("a status code, such as 1012"); err != nil {
		return err
	}
	d := p.drain()
	if err := p.number(&d.CloseCode, math.MinInt, math.MaxInt, "close_code is a number, such as 1012"); err != nil {
		return err
	}
	if problem := frame.CloseCodeProblem(d.CloseCode); problem != "" {
		return p.d.Errf("close_code %s", problem)
	}
	if !p.d.NextArg() {
		return nil
	}
	if problem := frame.CloseReasonProblem(p.d.Val()); problem != "" {
		return p.d.Errf("the reason of close_code %s", problem)
	}
	d.CloseReason = p.d.Val()
	return nil
}

package websocketproxy

import (
	"math"
	"strconv"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/directive"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/label"
)

func (p *parser) maxLifetime() error {
	t := p.timeouts()
	if err := p.DurationOrOff(&t.MaxLifetime); err != nil || !p.NextArg() {
		return err
	}
	if t.MaxLifetime < 0 {
		return p.Err("max_lifetime off has no jitter")
	}
	if err := p.Percentage(&t.LifetimeJitter, "the jitter of max_lifetime is a percentage from 0% to 100%"); err != nil {
		return err
	}
	if t.LifetimeJitter == 0 {
		t.LifetimeJitter = -1 // zero would mean the default
	}
	return nil
}

func (p *parser) maxMessageRate() error {
	s, err := p.Arg("a number of messages per second")
	if err != nil {
		return err
	}
	l, most := p.limits(), " from 1 to "+strconv.Itoa(maxRate)
	if s == "off" {
		l.MaxMessageRate = -1
		return nil
	}
	err = p.Number(&l.MaxMessageRate, 1, maxRate, "max_message_rate is off or a number"+most)
	if err != nil || !p.NextArg() {
		return err
	}
	if p.Val() != delayFast && p.Val() != closeFast {
		err = p.Number(&l.MessageBurst, 1, maxRate, "the burst of max_message_rate is a number"+most)
		if err != nil || !p.NextArg() {
			return err
		}
	}
	return p.Word(&l.OnMessageRate, "max_message_rate ends with delay or close", delayFast, closeFast)
}

func (p *parser) shutdownPeriod() error {
	if _, err := p.Arg("a duration, such as 4s"); err != nil {
		return err
	}
	return p.Duration(&p.drain().ShutdownPeriod, time.Second, "shutdown_period is a duration of at least 1s")
}

func (p *parser) closeCode() error {
	if _, err := p.Arg("a status code, such as 1012"); err != nil {
		return err
	}
	d := p.drain()
	if err := p.Number(&d.CloseCode, math.MinInt, math.MaxInt, "close_code is a number, such as 1012"); err != nil {
		return err
	}
	if problem := frame.CloseCodeProblem(d.CloseCode); problem != "" {
		return p.Errf("close_code %s", problem)
	}
	if !p.NextArg() {
		return nil
	}
	if problem := frame.CloseReasonProblem(p.Val()); problem != "" {
		return p.Errf("the reason of close_code %s", problem)
	}
	d.CloseReason = p.Val()
	return nil
}

func (p *parser) label() error {
	at := p.Token()
	name, err := p.Arg("a name and a value, such as user {http.auth.user.id}")
	if err != nil {
		return err
	}
	if !p.NextArg() {
		return p.Errf("label %s needs a value, such as {http.auth.user.id}", name)
	}
	p.Note("labels", len(p.h.Labels), at)
	p.h.Labels = append(p.h.Labels, &label.Label{Name: name, Value: p.Val()})
	return nil
}

func (p *parser) expires() (err error) {
	e := p.expiry()
	if e.At, err = p.Arg("a time, such as {http.auth.user.exp}"); err != nil || !p.NextArg() {
		return err
	}
	if p.Val() != "optional" {
		const what = "the leeway of expires is a duration such as 30s"
		if err := p.Duration(&e.Leeway, 0, what); err != nil || !p.NextArg() {
			return err
		}
	}
	e.Optional = true
	var word string
	return p.Word(&word, "expires ends with a leeway, or the word optional", "optional")
}

// header collects a header operation.
func (p *parser) header() error {
	tokens, err := p.Share(3)
	if err != nil {
		return err
	}
	rp, err := directive.ParseShared(tokens)
	if err != nil {
		return err
	}
	if problem := headersProblem(rp.Headers); problem != "" {
		return directive.ErrorAt(tokens[0], "%s %s", tokens[0].Text, problem)
	}
	return nil
}

// trustedProxies collects ranges of addresses, one of which may have a name.
func (p *parser) trustedProxies() error {
	tokens, err := p.Share(math.MaxInt)
	if err != nil {
		return err
	}
	for _, t := range tokens[1:] {
		if err := directive.WithoutCommas("trusted_proxies", t); err != nil {
			return err
		}
		if _, err := trustedRange(t.Text); err != nil && t.Text != "private_ranges" {
			return directive.ErrorAt(t, "trusted_proxies %w", err)
		}
	}
	return nil
}

package websocketproxy

import (
	"math"
	"strconv"

	"github.com/dustin/go-humanize"
)

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

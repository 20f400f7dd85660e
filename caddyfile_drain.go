package websocketproxy

import (
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
)

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

func (p *parser) name() error {
	name, err := p.arg("a name")
	p.h.Name = name
	return err
}

package websocketproxy

import (
	"math"

	"github.com/dustin/go-humanize"
)

func (p *parser) limits() *Limits {
	if p.h.Limits == nil {
		p.h.Limits = new(Limits)
	}
	return p.h.Limits
}

func (p *parser) maxMessageSize() error {
	s, err := p.arg("a size, such as 1MiB")
	if err != nil {
		return err
	}
	if s == "off" {
		p.limits().MaxMessageSize = -1
		return nil
	}
	size, err := humanize.ParseBytes(s)
	if err != nil || size > math.MaxInt64 {
		return p.d.Errf("max_message_size is a size such as 64KB or 1MiB, or off, not %q", s)
	}
	if size == 0 {
		return p.d.Errf("max_message_size is %s; write off for no limit", s)
	}
	p.limits().MaxMessageSize = int64(size)
	return nil
}

package websocketproxy

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func (p *parser) to() error {
	if p.d.CountRemainingArgs() == 0 {
		return p.d.Err("to needs at least one upstream address")
	}
	for p.d.NextArg() {
		if err := p.upstream(p.d.Token(), Upstream{}); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) upstreamOption() error {
	if _, err := p.arg("an address"); err != nil {
		return err
	}
	address, settings := p.d.Token(), Upstream{}
	seen := make(map[string]bool)
	for p.d.NextArg() {
		var err error
		name := p.d.Val()
		if seen[name] {
			return p.d.Errf("%s is given twice", name)
		}
		seen[name] = true
		switch name {
		case "weight":
			settings.Weight, err = p.count(name)
		case "max_tunnels":
			settings.MaxTunnels, err = p.count(name)
		case "backup":
			settings.Backup = true
		default:
			err = p.d.Errf("upstream has no setting %s; it has weight, max_tunnels and backup", name)
		}
		if err != nil {
			return err
		}
	}
	return p.upstream(address, settings)
}

// upstream adds the upstreams that an address stands for.
func (p *parser) upstream(address caddyfile.Token, settings Upstream) error {
	dials, err := p.shared.upstream(address)
	if err != nil {
		return err
	}
	for _, dial := range dials {
		up := settings
		up.Dial = dial
		p.h.Upstreams = append(p.h.Upstreams, &up)
	}
	return nil
}

// countOrOff is count of an option that can be off.
func (p *parser) countOrOff() (int, error) {
	option := p.d.Val()
	if !p.d.NextArg() {
		return 0, p.d.Errf("%s needs a number", option)
	}
	if p.d.Val() == "off" {
		return -1, nil
	}
	n, err := strconv.Atoi(p.d.Val())
	if err != nil || n < 1 {
		return 0, p.d.Errf("%s is a number of at least 1, or off, not %q", option, p.d.Val())
	}
	return n, nil
}

// count parses a number of at least one.
func (p *parser) count(what string) (int, error) {
	s, err := p.arg("a number")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, p.d.Errf("%s is a number of at least 1, not %q", what, s)
	}
	return n, nil
}

package websocketproxy

import (
	"fmt"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
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
	if err := notAnAddress(address.Text); err != nil {
		return p.d.Errf("upstream %q %w", address.Text, err)
	}
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
			settings.MaxTunnels, err = p.countOrOff()
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

// dynamic parses a source of upstreams: like reverse_proxy, but what the source
// does not read is an error.
func (p *parser) dynamic() error {
	segment := p.d.NextSegment()
	if len(segment) == 1 {
		return p.d.Err("dynamic needs the name of a source, such as a or srv")
	}
	name := segment[1].Text
	info, err := caddy.GetModule("http.reverse_proxy.upstreams." + name)
	if err != nil {
		return errorAt(segment[1], "dynamic %s is not known; use a, srv, multi, or another source that reverse_proxy has", name)
	}
	module := info.New()
	source, ok := module.(reverseproxy.UpstreamSource)
	if !ok {
		return errorAt(segment[1], "dynamic %s: %T does not find upstreams", name, module)
	}
	unmarshaler, ok := module.(caddyfile.Unmarshaler)
	if !ok {
		return errorAt(segment[1], "dynamic %s cannot be used in a Caddyfile", name)
	}
	d := caddyfile.NewDispenser(segment[1:])
	if err := unmarshaler.UnmarshalCaddyfile(d); err != nil {
		return err
	}
	if d.Next() {
		return d.Errf("dynamic %s does not take %s", name, d.Val())
	}
	p.noteSources("dynamic_upstreams", segment[1:])
	p.h.DynamicUpstreamsRaw = caddyconfig.JSONModuleObject(source, "source", name, nil)
	return nil
}

// noteSources remembers where the sources are of which one consists.
func (p *parser) noteSources(path string, source []caddyfile.Token) {
	d := caddyfile.NewDispenser(source)
	if d.Next(); d.Val() != "multi" {
		return
	}
	for i := 0; d.NextBlock(0); i++ {
		p.note(path+".sources", i, d.Token())
		p.noteSources(fmt.Sprintf("%s.sources[%d]", path, i), d.NextSegment())
	}
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
		p.note("upstreams", len(p.h.Upstreams), address)
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

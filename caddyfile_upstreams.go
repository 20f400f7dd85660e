package websocketproxy

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/directive"
)

// upstreams parses addresses to the end of the line.
func (p *parser) upstreams() error {
	for p.NextArg() {
		if err := p.upstream(p.Token(), Upstream{}); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) to() error {
	if p.CountRemainingArgs() == 0 {
		return p.Err("to needs at least one upstream address")
	}
	return p.upstreams()
}

func (p *parser) upstreamOption() error {
	address, err := p.Address()
	if err != nil {
		return err
	}
	settings, seen := Upstream{}, make(map[string]bool)
	for p.NextArg() {
		name := p.Val()
		if seen[name] {
			return p.Errf("%s is given twice", name)
		}
		seen[name] = true
		switch name {
		case "weight":
			err = p.Count(&settings.Weight)
		case "max_tunnels":
			err = p.CountOrOff(&settings.MaxTunnels)
		case "max_handshakes":
			err = p.handshakeLimit(&settings.MaxHandshakes)
		case "handshake_rate":
			err = p.handshakeRate(&settings.HandshakeRate)
		case "backup":
			settings.Backup = true
		default:
			err = p.Errf("upstream has no setting %s; it has weight, max_tunnels, max_handshakes, handshake_rate and backup", name)
		}
		if err != nil {
			return err
		}
	}
	return p.upstream(address, settings)
}

func (p *parser) dynamic() error {
	source, tokens, err := p.Guest("http.reverse_proxy.upstreams", "the name of a source, such as a or srv",
		"a, srv, multi, or another source that reverse_proxy has")
	if err != nil {
		return err
	}
	name := tokens[0].Text
	if _, ok := source.(reverseproxy.UpstreamSource); !ok {
		return directive.ErrorAt(tokens[0], "dynamic %s: %T does not find upstreams", name, source)
	}
	if err := directive.UnmarshalGuest("dynamic", source, tokens); err != nil {
		return err
	}
	p.noteSources("dynamic_upstreams", tokens)
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
		p.Note(path+".sources", i, d.Token())
		p.noteSources(fmt.Sprintf("%s.sources[%d]", path, i), d.NextSegment())
	}
}

// upstream adds the upstreams that an address stands for.
func (p *parser) upstream(address caddyfile.Token, like Upstream) error {
	dials, err := p.Dials(address)
	if err != nil {
		return err
	}
	for _, dial := range dials {
		if err := (&Upstream{Dial: dial}).Check(); err != nil {
			return directive.ErrorAt(address, "upstream %q: %s", address.Text, strings.TrimPrefix(err.Error(), "dial: "))
		}
		up := like
		up.Dial = dial
		p.Note("upstreams", len(p.h.Upstreams), address)
		p.h.Upstreams = append(p.h.Upstreams, &up)
	}
	return nil
}

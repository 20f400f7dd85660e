package websocketproxy

import (
	"errors"
	"fmt"
	"strings"

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
			err = p.count(&settings.Weight)
		case "max_tunnels":
			err = p.countOrOff(&settings.MaxTunnels)
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

func (p *parser) dynamic() error {
	source, tokens, err := p.guest("http.reverse_proxy.upstreams", "the name of a source, such as a or srv",
		"a, srv, multi, or another source that reverse_proxy has")
	if err != nil {
		return err
	}
	name := tokens[0].Text
	if _, ok := source.(reverseproxy.UpstreamSource); !ok {
		return errorAt(tokens[0], "dynamic %s: %T does not find upstreams", name, source)
	}
	if err := unmarshalGuest("dynamic", source, tokens); err != nil {
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

// notAnAddress says what is wrong with a word where an upstream's address belongs,
// if it is surely something else that has come to the wrong place.
func notAnAddress(word string) error {
	const byPort = "; if a host has this name, write %s:80"
	host, _, _ := strings.Cut(word, "/")
	switch {
	case word == "":
		return errors.New("is empty")
	case strings.HasPrefix(word, "@"), word == "*":
		return matcherFirst(word)
	case strings.Contains(word, "*"):
		return matcherFirst("/" + strings.TrimPrefix(word, "/"))
	case strings.HasPrefix(word, "/"):
		return fmt.Errorf("%w, and a unix socket is written unix/%s", matcherFirst(word), word)
	case strings.HasPrefix(word, "unix+h2c/"):
		return errors.New("speaks HTTP/2, but a tunnel needs HTTP/1.1; use unix/")
	case !hasPath(word) || strings.Contains(word, "://"):
	case strings.ContainsAny(host, ".:"):
		return fmt.Errorf("has a path; write %s, and change paths with the rewrite or uri directive", host)
	default:
		return fmt.Errorf("%w; and change paths with the rewrite or uri directive", matcherFirst("/"+word))
	}
	switch {
	case strings.HasSuffix(word, ","):
		return errors.New("ends with a comma; addresses are separated by spaces only")
	case word == "weight" || word == "max_tunnels" || word == "backup":
		return fmt.Errorf("is a setting of the option upstream, such as: upstream localhost:9000 weight 2 backup"+byPort, word)
	case isOption(word):
		return fmt.Errorf("is an option, which has a line of its own in the block"+byPort, word)
	case strings.Trim(word, "0123456789") == "":
		return fmt.Errorf("is a number; if it is a port, write localhost:%s", word)
	}
	return nil
}

func matcherFirst(matcher string) error {
	return fmt.Errorf("is no address; a matcher comes right after the directive: websocket_proxy %s <upstreams...>", matcher)
}

// isOption reports whether websocket_proxy has an option of this name, or would
// have, as reverse_proxy has it.
func isOption(name string) bool {
	_, has := options[name]
	_, refused := refusedOptions[name]
	return has || refused
}

// withoutCommas refuses words with commas where values are separated by spaces.
func withoutCommas(option string, t caddyfile.Token) error {
	if strings.Contains(t.Text, ",") {
		return errorAt(t, "%s %q has a comma; values are separated by spaces only", option, t.Text)
	}
	return nil
}

// schemeProblem says what is wrong with the scheme of an address, or with what
// follows it, if anything. WebSocket URLs are HTTP URLs under another name (RFC 6455
// section 3).
func schemeProblem(scheme, rest string) error {
	secure := scheme == "https" || scheme == "wss"
	other, port, otherPort, tls := "wss", "80", "443", ""
	if secure {
		other, port, otherPort, tls = "ws", "443", "80", " and transport http { tls }"
	}
	host, isOther := strings.CutSuffix(rest, ":"+otherPort)
	switch {
	case scheme == "h2c":
		return errors.New("speaks HTTP/2, but a tunnel needs HTTP/1.1; use ws://")
	case scheme == "unix":
		return fmt.Errorf("is written unix/%s", rest)
	case !secure && scheme != "http" && scheme != "ws":
		return fmt.Errorf("has the scheme %s://; use ws:// or wss://", scheme)
	case strings.ContainsAny(rest, "/?#@"):
		return errors.New("has more than a scheme, a host and a port; change paths with the rewrite or uri directive")
	case rest == "":
		return errors.New("has no host")
	case isOther:
		return fmt.Errorf("has the port of %s://; write %s://%s, or %s%s", other, other, host, rest, tls)
	case strings.Contains(rest, "{") && !strings.Contains(rest, ":"):
		return fmt.Errorf("has a placeholder, which cannot follow a scheme; write %s:%s%s", rest, port, tls)
	case strings.Contains(rest, "{"):
		return fmt.Errorf("has a placeholder, which cannot follow a scheme; write %s%s", rest, tls)
	}
	return nil
}

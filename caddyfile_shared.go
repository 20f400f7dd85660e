package websocketproxy

import (
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// shared is what websocket_proxy has in common with reverse_proxy. It is
// parsed by reverse_proxy's own parser, from the same tokens, so that it means
// the same and errors come with their lines.
type shared struct {
	// plain and secured are upstreams' addresses without TLS and with it.
	plain, secured string
	// url is an upstream's address that has a scheme, and transport the tokens
	// of that option. They go together: https in one enables TLS in the other.
	url       string
	transport []caddyfile.Token
	// options are the tokens of all others.
	options []caddyfile.Token
}

// parseShared has reverse_proxy parse options. Errors that concern all of them
// get the position of end.
func parseShared(options []caddyfile.Token, end caddyfile.Token) (*reverseproxy.Handler, error) {
	// New tokens instead of copies, which could be quoted and so be no braces.
	// Tokens of different files are never on the same line.
	tokens := append([]caddyfile.Token{{Text: "reverse_proxy"}, {Text: "{"}}, options...)
	tokens = append(tokens, caddyfile.Token{Text: "}", File: end.File, Line: max(end.Line, 1)})
	rp := new(reverseproxy.Handler)
	return rp, rp.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
}

// errorAt returns an error with the position of a token.
func errorAt(t caddyfile.Token, format string, args ...any) error {
	d := caddyfile.NewDispenser([]caddyfile.Token{t})
	d.Next()
	return d.Errf(format, args...)
}

// upstream takes in an upstream's address and returns the addresses to dial
// that it stands for: several if it has a range of ports.
func (s *shared) upstream(address caddyfile.Token) ([]string, error) {
	url, err := asHTTP(address.Text)
	if err != nil {
		return nil, errorAt(address, "upstream %q %w", address.Text, err)
	}
	to, up := address, address
	to.Text, up.Text = "to", url
	rp, err := parseShared([]caddyfile.Token{to, up}, caddyfile.Token{})
	if err != nil {
		// It speaks of what has been written.
		return nil, errors.New(strings.ReplaceAll(err.Error(), url, address.Text))
	}
	if strings.Contains(url, "://") {
		s.url = url
	}
	kind := &s.plain
	if rp.TransportRaw != nil {
		kind = &s.secured
	}
	*kind = address.Text
	if s.plain != "" && s.secured != "" {
		return nil, errorAt(address, "upstreams share the transport, so all of them use TLS or none: %s, %s",
			s.plain, s.secured)
	}
	dials := make([]string, len(rp.Upstreams))
	for i, up := range rp.Upstreams {
		dials[i] = up.Dial
		if err := (&Upstream{Dial: up.Dial}).check(); err != nil {
			return nil, errorAt(address, "upstream %q: %s", address.Text, strings.TrimPrefix(err.Error(), "dial: "))
		}
	}
	return dials, nil
}

// asHTTP returns an upstream's address as reverse_proxy spells it.
func asHTTP(address string) (string, error) {
	if err := notAnAddress(address); err != nil {
		return "", err
	}
	scheme, rest, isURL := strings.Cut(address, "://")
	if !isURL {
		return address, nil
	}
	scheme = strings.ToLower(scheme)
	if err := schemeProblem(scheme, rest); err != nil {
		return "", err
	}
	if name, ok := map[string]string{"ws": "http", "wss": "https"}[scheme]; ok {
		scheme = name
	}
	return scheme + "://" + rest, nil
}

// finish parses what was collected and puts it into h.
func (s *shared) finish(h *Handler) error {
	options, end := slices.Clone(s.transport), caddyfile.Token{}
	if s.url != "" {
		if len(options) > 0 {
			end = options[0] // an error can only be that they contradict
		}
		options = append(options, caddyfile.Token{Text: "to"}, caddyfile.Token{Text: s.url})
	}
	rp, err := parseShared(options, end)
	if err != nil {
		return err
	}
	h.TransportRaw = rp.TransportRaw
	if rp, err = parseShared(s.options, caddyfile.Token{}); err != nil {
		return err
	}
	h.Headers, h.TrustedProxies = rp.Headers, rp.TrustedProxies
	return nil
}

// header collects a header operation.
func (p *parser) header() error {
	tokens, err := p.sharedOption(&p.shared.options, 3)
	if err != nil {
		return err
	}
	rp, err := parseShared(tokens, caddyfile.Token{})
	if err != nil {
		return err
	}
	if problem := headersProblem(rp.Headers); problem != "" {
		return errorAt(tokens[0], "%s %s", tokens[0].Text, problem)
	}
	return nil
}

// trustedProxies collects ranges of addresses, one of which may have a name.
func (p *parser) trustedProxies() error {
	tokens, err := p.sharedOption(&p.shared.options, math.MaxInt)
	if err != nil {
		return err
	}
	for _, t := range tokens[1:] {
		if err := withoutCommas("trusted_proxies", t); err != nil {
			return err
		}
		if _, err := trustedRange(t.Text); err != nil && t.Text != "private_ranges" {
			return errorAt(t, "trusted_proxies %w", err)
		}
	}
	return nil
}

// sharedOption collects into list an option that reverse_proxy has too, with at least
// one argument and at most limit.
func (p *parser) sharedOption(list *[]caddyfile.Token, limit int) ([]caddyfile.Token, error) {
	tokens := []caddyfile.Token{p.d.Token()}
	for len(tokens) <= limit && p.d.NextArg() {
		tokens = append(tokens, p.d.Token())
	}
	if len(tokens) == 1 {
		return nil, p.d.Errf("%s needs an argument", tokens[0].Text)
	}
	*list = append(*list, tokens...)
	return tokens, nil
}

// transport collects the transport, and refuses options that would be ignored
// or break tunnels.
func (p *parser) transport() error {
	segment := p.d.NextSegment()
	d := caddyfile.NewDispenser(segment)
	d.Next()
	switch {
	case !d.NextArg():
		return d.Err("transport needs a name, which can only be http")
	case d.Val() != "http":
		return d.Errf("transport %s cannot carry a tunnel; use http", d.Val())
	case d.NextArg():
		return d.Errf("transport http has no argument %s; its options are in a block", d.Val())
	}
	for d.NextBlock(0) {
		option := d.Token()
		hint, refused := refusedInTransport[option.Text]
		rest := d.NextSegment() // what follows on its line, and its block
		if refused && !isOnlyHTTP1(rest) {
			return errorAt(option, "%s is not an option of a tunnel's transport: %s", option.Text, hint)
		}
	}
	p.shared.transport = segment
	return nil
}

// isOnlyHTTP1 reports whether an option of the transport restricts it to
// HTTP/1.1, which is what a tunnel does anyway.
func isOnlyHTTP1(option []caddyfile.Token) bool {
	return len(option) == 2 && option[0].Text == "versions" && option[1].Text == "1.1"
}

// guest returns the module of reverse_proxy that an option names, and the tokens from
// its name on. needs says what the option needs, and others what else there is.
func (p *parser) guest(namespace, needs, others string) (module any, tokens []caddyfile.Token, err error) {
	segment := p.d.NextSegment()
	option := segment[0].Text
	if len(segment) == 1 {
		return nil, nil, p.d.Errf("%s needs %s", option, needs)
	}
	name := segment[1]
	info, err := caddy.GetModule(namespace + "." + name.Text)
	if err != nil {
		return nil, nil, errorAt(name, "%s %s is not known; use %s", option, name.Text, others)
	}
	return info.New(), segment[1:], nil
}

// unmarshalGuest sets up a module like reverse_proxy, but what the module does not
// read is an error.
func unmarshalGuest(option string, module any, tokens []caddyfile.Token) error {
	name := tokens[0].Text
	unmarshaler, ok := module.(caddyfile.Unmarshaler)
	if !ok {
		return errorAt(tokens[0], "%s %s cannot be used in a Caddyfile", option, name)
	}
	d := caddyfile.NewDispenser(tokens)
	if err := unmarshaler.UnmarshalCaddyfile(d); err != nil {
		return err
	}
	if d.Next() {
		return d.Errf("%s %s does not take %s", option, name, d.Val())
	}
	return nil
}

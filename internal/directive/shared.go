package directive

import (
	"errors"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// shared is what the directive has in common with reverse_proxy. It is
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

// ParseShared has reverse_proxy parse some options.
func ParseShared(options []caddyfile.Token) (*reverseproxy.Handler, error) {
	return parseShared(options, caddyfile.Token{})
}

// Dials takes in an upstream's address and returns the addresses to dial that it stands
// for: several if it has a range of ports.
func (r *Reader) Dials(address caddyfile.Token) ([]string, error) {
	url, err := r.syntax.asHTTP(address.Text)
	if err != nil {
		return nil, ErrorAt(address, "upstream %q %w", address.Text, err)
	}
	to, up := address, address
	to.Text, up.Text = "to", url
	rp, err := ParseShared([]caddyfile.Token{to, up})
	if err != nil {
		// It speaks of what has been written.
		return nil, errors.New(strings.ReplaceAll(err.Error(), url, address.Text))
	}
	s := &r.shared
	if strings.Contains(url, "://") {
		s.url = url
	}
	kind := &s.plain
	if rp.TransportRaw != nil {
		kind = &s.secured
	}
	*kind = address.Text
	if s.plain != "" && s.secured != "" {
		return nil, ErrorAt(address, "upstreams share the transport, so all of them use TLS or none: %s, %s",
			s.plain, s.secured)
	}
	dials := make([]string, len(rp.Upstreams))
	for i, up := range rp.Upstreams {
		dials[i] = up.Dial
	}
	return dials, nil
}

// Share collects an option that reverse_proxy has too, with at least one argument and at
// most limit, and returns its tokens.
func (r *Reader) Share(limit int) ([]caddyfile.Token, error) {
	tokens := []caddyfile.Token{r.Token()}
	for len(tokens) <= limit && r.NextArg() {
		tokens = append(tokens, r.Token())
	}
	if len(tokens) == 1 {
		return nil, r.Errf("%s needs an argument", tokens[0].Text)
	}
	r.shared.options = append(r.shared.options, tokens...)
	return tokens, nil
}

// ShareArg is Share for an option with one argument.
func (r *Reader) ShareArg() error {
	_, err := r.Share(1)
	return err
}

// ShareFlag is Share for an option without arguments.
func (r *Reader) ShareFlag() error {
	r.shared.options = append(r.shared.options, r.Token())
	return nil
}

// ShareBlock is Share for an option that is a block. The error that there is none says
// what it needs.
func (r *Reader) ShareBlock(needs string) error {
	segment := r.NextSegment()
	if len(segment) < 2 || segment[1].Text != "{" {
		return r.Errf("%s needs %s", segment[0].Text, needs)
	}
	r.shared.options = append(r.shared.options, segment...)
	return nil
}

// Transport collects the transport, and refuses options that would be ignored
// or break tunnels, with a hint for each.
func (r *Reader) Transport(refused map[string]string) error {
	segment := r.NextSegment()
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
		hint, isRefused := refused[option.Text]
		rest := d.NextSegment() // what follows on its line, and its block
		if isRefused && !isOnlyHTTP1(rest) {
			return ErrorAt(option, "%s is not an option of a tunnel's transport: %s", option.Text, hint)
		}
	}
	r.shared.transport = segment
	return nil
}

// isOnlyHTTP1 reports whether an option of the transport restricts it to
// HTTP/1.1, which is what a tunnel does anyway.
func isOnlyHTTP1(option []caddyfile.Token) bool {
	return len(option) == 2 && option[0].Text == "versions" && option[1].Text == "1.1"
}

// Shared parses what was collected, but for the transport.
func (r *Reader) Shared() (*reverseproxy.Handler, error) {
	return ParseShared(r.shared.options)
}

// SharedTransport parses the transport, as it is for the upstreams' addresses. Nothing
// else of the result is set.
func (r *Reader) SharedTransport() (*reverseproxy.Handler, error) {
	options, end := slices.Clone(r.shared.transport), caddyfile.Token{}
	if r.shared.url != "" {
		if len(options) > 0 {
			end = options[0] // an error can only be that they contradict
		}
		options = append(options, caddyfile.Token{Text: "to"}, caddyfile.Token{Text: r.shared.url})
	}
	return parseShared(options, end)
}

// Guest returns the module of reverse_proxy that an option names, and the tokens from
// its name on. needs says what the option needs, and others what else there is.
func (r *Reader) Guest(namespace, needs, others string) (module any, tokens []caddyfile.Token, err error) {
	segment := r.NextSegment()
	option := segment[0].Text
	if len(segment) == 1 {
		return nil, nil, r.Errf("%s needs %s", option, needs)
	}
	name := segment[1]
	info, err := caddy.GetModule(namespace + "." + name.Text)
	if err != nil {
		return nil, nil, ErrorAt(name, "%s %s is not known; use %s", option, name.Text, others)
	}
	return info.New(), segment[1:], nil
}

// NextIs reports whether this comes next in the line, and stays where it is.
func (r *Reader) NextIs(text string) bool {
	if !r.NextArg() {
		return false
	}
	defer r.Prev()
	return r.Val() == text
}

// UnmarshalGuest sets up a module like reverse_proxy, but what the module does not
// read is an error.
func UnmarshalGuest(option string, module any, tokens []caddyfile.Token) error {
	name := tokens[0].Text
	unmarshaler, ok := module.(caddyfile.Unmarshaler)
	if !ok {
		return ErrorAt(tokens[0], "%s %s cannot be used in a Caddyfile", option, name)
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

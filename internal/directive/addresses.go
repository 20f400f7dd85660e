package directive

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Address returns an option's next argument, which is an upstream's address.
func (r *Reader) Address() (caddyfile.Token, error) {
	if _, err := r.Arg("an address"); err != nil {
		return caddyfile.Token{}, err
	}
	if err := r.syntax.notAnAddress(r.Val()); err != nil {
		return caddyfile.Token{}, r.Errf("upstream %q %w", r.Val(), err)
	}
	return r.Token(), nil
}

// asHTTP returns an upstream's address as reverse_proxy spells it.
func (s *Syntax) asHTTP(address string) (string, error) {
	if err := s.notAnAddress(address); err != nil {
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

// notAnAddress says what is wrong with a word where an upstream's address belongs,
// if it is surely something else that has come to the wrong place.
func (s *Syntax) notAnAddress(word string) error {
	const byPort = "; if a host has this name, write %s:80"
	host, _, _ := strings.Cut(word, "/")
	switch {
	case word == "":
		return errors.New("is empty")
	case strings.HasPrefix(word, "@"), word == "*":
		return s.matcherFirst(word)
	case strings.Contains(word, "*"):
		return s.matcherFirst("/" + strings.TrimPrefix(word, "/"))
	case strings.HasPrefix(word, "/"):
		return fmt.Errorf("%w, and a unix socket is written unix/%s", s.matcherFirst(word), word)
	case strings.HasPrefix(word, "unix+h2c/"):
		return errors.New("speaks HTTP/2, but a tunnel needs HTTP/1.1; use unix/")
	case !HasPath(word) || strings.Contains(word, "://"):
	case strings.ContainsAny(host, ".:"):
		return fmt.Errorf("has a path; write %s, and change paths with the rewrite or uri directive", host)
	default:
		return fmt.Errorf("%w; and change paths with the rewrite or uri directive", s.matcherFirst("/"+word))
	}
	switch {
	case strings.HasSuffix(word, ","):
		return errors.New("ends with a comma; addresses are separated by spaces only")
	case slices.Contains(s.Settings, word):
		return fmt.Errorf("is a setting of the option upstream, such as: upstream localhost:9000 weight 2 backup"+byPort, word)
	case s.isOption(word):
		return fmt.Errorf("is an option, which has a line of its own in the block"+byPort, word)
	case strings.Trim(word, "0123456789") == "":
		return fmt.Errorf("is a number; if it is a port, write localhost:%s", word)
	}
	return nil
}

func (s *Syntax) matcherFirst(matcher string) error {
	return fmt.Errorf("is no address; a matcher comes right after the directive: %s %s <upstreams...>", s.Directive, matcher)
}

// HasPath reports whether there is a path behind a host, which Caddy takes for the name
// of a network then.
func HasPath(address string) bool {
	network, _, found := strings.Cut(strings.ToLower(address), "/")
	switch strings.TrimRight(network, "46") {
	case "", "tcp", "udp", "ip", "unix", "unixgram", "unixpacket", "unix+h2c", "fd", "fdgram":
		return false
	}
	return found && !strings.Contains(network, "{")
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

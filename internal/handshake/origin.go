package handshake

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// Origins are those that pages may have which connect (RFC 6455 section 10.2). The
// zero value is all.
type Origins struct {
	same bool // as the request's host
	list []origin
}

// Add adds `same`, `null`, `file://`, or an origin, which may have the wildcard *. in
// place of its subdomains. It returns false if s is none of them.
func (l *Origins) Add(s string) bool {
	if s == "same" {
		l.same = true
		return true
	}
	pattern, subdomains := s, false
	if scheme, host, ok := strings.Cut(s, "://*."); ok {
		pattern, subdomains = scheme+"://"+host, true
	}
	o, ok := parseOrigin(pattern)
	if !ok {
		return false
	}
	o.subdomains = subdomains
	l.list = append(l.list, o)
	return true
}

// Check returns an error if a page of the request's origin may not connect.
// isSecure reports whether the request is known to have come by TLS.
func (l *Origins) Check(r *http.Request, isSecure func(*http.Request) bool) error {
	values := r.Header.Values("Origin")
	if !l.same && len(l.list) == 0 || len(values) == 0 {
		return nil // any, or no browser
	}
	if len(values) > 1 {
		return &Error{BadOrigin, fmt.Errorf("%d Origin fields", len(values))}
	}
	o, ok := parseOrigin(values[0])
	if !ok {
		return &Error{BadOrigin, fmt.Errorf("origin %q is malformed", values[0])}
	}
	if l.same && o.isSame(r.Host, isSecure(r)) || slices.ContainsFunc(l.list, o.matches) {
		return nil
	}
	return &Error{BadOrigin, fmt.Errorf("origin %q is not in the list", values[0])}
}

// origin is one that pages may have: exactly, or with any subdomain. The
// opaque origin `null` has only a scheme, "null", and that of files "file".
type origin struct {
	scheme, host, port string
	subdomains         bool
}

// parseOrigin parses a serialized origin (RFC 6454 section 6.2). Ports are
// always explicit in the result.
func parseOrigin(s string) (origin, bool) {
	switch s {
	case "null":
		return origin{scheme: "null"}, true
	case "file://": // of applications that wrap a browser
		return origin{scheme: "file"}, true
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Hostname() == "" ||
		!strings.EqualFold(s, u.Scheme+"://"+u.Host) || // nothing else is in it
		strings.HasSuffix(u.Host, ":") || strings.ContainsFunc(u.Host, neverInHost) {
		return origin{}, false
	}
	// What is no IPv6 address may have neither, which url.Parse does not mind.
	if host := u.Hostname(); strings.ContainsAny(host, "[]") || strings.Contains(host, ":") && u.Host[0] != '[' {
		return origin{}, false
	}
	return origin{
		scheme: u.Scheme, // in lower case already
		host:   strings.ToLower(u.Hostname()),
		port:   portOr(u.Port(), defaultPort(u.Scheme)),
	}, true
}

// neverInHost reports whether c cannot be in an origin's host, which is in
// Punycode where a page's URL is not (RFC 6454 section 6.2). A comma rather belongs
// to a list.
func neverInHost(c rune) bool {
	return c == '*' || c == ',' || c >= utf8.RuneSelf
}

func defaultPort(scheme string) string {
	switch scheme {
	case "http", "ws":
		return "80"
	case "https", "wss":
		return "443"
	}
	return ""
}

func portOr(port, def string) string {
	if port == "" {
		return def
	}
	return port
}

// matches reports whether o is what pattern stands for.
func (o origin) matches(pattern origin) bool {
	if pattern.scheme != o.scheme || pattern.port != o.port {
		return false
	}
	if pattern.subdomains {
		return strings.HasSuffix(o.host, "."+pattern.host)
	}
	return pattern.host == o.host
}

// isSame compares with a request's Host. An origin has a scheme too (RFC 6454 section
// 4), so one that has come by TLS is https. Behind a proxy that ends TLS and does
// not say so the request does not tell the scheme of the page's URL, so a Host without
// a port stands for the default port of the origin's scheme. Origins of schemes without
// one, such as those of browser extensions, are never the same.
func (o origin) isSame(hostport string, secure bool) bool {
	if secure && o.scheme != "https" {
		return false
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = strings.Trim(hostport, "[]"), ""
	}
	def := defaultPort(o.scheme)
	return def != "" && strings.EqualFold(o.host, host) && o.port == portOr(port, def)
}

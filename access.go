package websocketproxy

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// access is the compiled form of Access.
type access struct {
	requireUpgrade bool
	anyOrigin      bool
	sameOrigin     bool
	origins        []origin
	subprotocols   []string
}

// origin is one that pages may have: exactly, or with any subdomain. The
// opaque origin `null` has only a scheme, "null", and that of files "file".
type origin struct {
	scheme, host, port string
	subdomains         bool
}

func newAccess(cfg *Access) (access, error) {
	a := access{
		requireUpgrade: cfg.RequireUpgrade,
		anyOrigin:      len(cfg.Origins) == 0,
		subprotocols:   cfg.Subprotocols,
	}
	for i, s := range cfg.Origins {
		if s == "same" {
			a.sameOrigin = true
			continue
		}
		pattern, subdomains := s, false
		if scheme, host, ok := strings.Cut(s, "://*."); ok {
			pattern, subdomains = scheme+"://"+host, true
		}
		o, ok := parseOrigin(pattern)
		if !ok {
			return a, fmt.Errorf("access.origins[%d]: %q is not an origin; "+
				"write same, null, file://, https://example.com or https://*.example.com", i, s)
		}
		o.subdomains = subdomains
		a.origins = append(a.origins, o)
	}
	for i, s := range cfg.Subprotocols {
		if !isToken(s) {
			return a, fmt.Errorf("access.subprotocols[%d]: %q is not a token, such as graphql-ws", i, s)
		}
	}
	return a, nil
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

// checkOrigin returns an error if a page of the request's origin may not
// connect. secure tells that the request is known to have come by TLS.
func (a *access) checkOrigin(r *http.Request, secure bool) error {
	values := r.Header.Values("Origin")
	if a.anyOrigin || len(values) == 0 {
		return nil // no browser
	}
	if len(values) > 1 {
		return fmt.Errorf("%d Origin fields", len(values))
	}
	o, ok := parseOrigin(values[0])
	if !ok {
		return fmt.Errorf("origin %q is malformed", values[0])
	}
	if a.sameOrigin && o.isSame(r.Host, secure) || slices.ContainsFunc(a.origins, o.matches) {
		return nil
	}
	return fmt.Errorf("origin %q is not in the list", values[0])
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

// isSecure reports whether the client is known to have sent r by TLS: to Caddy, or to a
// trusted proxy in front of it that says so. What that says is about the client;
// how it reaches Caddy itself is not.
func (h *Handler) isSecure(r *http.Request) bool {
	if values := r.Header["X-Forwarded-Proto"]; len(values) > 0 {
		if _, trusted, _ := h.forwardingPeer(r); trusted {
			return strings.EqualFold(values[len(values)-1], "https")
		}
	}
	return r.TLS != nil
}

// filterSubprotocols returns those of the offered subprotocols that may be
// spoken, in the client's order of preference.
func (a *access) filterSubprotocols(offered []string) ([]string, error) {
	if len(a.subprotocols) == 0 || len(offered) == 0 {
		return offered, nil
	}
	allowed := slices.DeleteFunc(slices.Clone(offered), func(name string) bool {
		return !slices.Contains(a.subprotocols, name)
	})
	if len(allowed) == 0 {
		// Browsers' applications send tokens as if they were subprotocols, so what
		// was offered is not for logs.
		return nil, fmt.Errorf("none of the %d offered subprotocols is in the list: %s",
			len(offered), strings.Join(a.subprotocols, ", "))
	}
	return allowed, nil
}

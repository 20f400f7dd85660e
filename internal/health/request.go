package health

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Request is what a probe sends that is not for tcp: path and query, and the rest of
// it, with placeholders.
type Request struct {
	Method, URI, Body string
	Header            http.Header
}

// Replacer replaces placeholders in a text: all of them, or those that it knows.
type Replacer interface {
	ReplaceAll(text, empty string) string
	ReplaceKnown(text, empty string) string
}

// to makes the request for an address, as reverse_proxy makes it.
func (q *Request) to(ctx context.Context, address upstream.Address, secure bool, repl Replacer) (*http.Request, error) {
	u, err := url.Parse(q.URI)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	u.Scheme, u.Host, u.Fragment = "http", address.HostPort, ""
	if secure {
		u.Scheme = "https"
	}
	if address.Network == "unix" {
		u.Host = "localhost" // a path is no host
	}
	var body io.Reader
	if q.Body != "" {
		body = strings.NewReader(repl.ReplaceKnown(q.Body, ""))
	}
	r, err := http.NewRequestWithContext(ctx, q.Method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	for name, values := range q.Header {
		name = repl.ReplaceAll(name, "")
		if name == "Host" {
			r.Host = repl.ReplaceAll(values[0], "")
			continue
		}
		for _, value := range values {
			r.Header.Add(name, repl.ReplaceKnown(value, ""))
		}
	}
	return r, nil
}

package websocketproxy

import (
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// picked is a choice, and what the client gets to know of it.
type picked struct {
	*upstream.Choice

	header http.Header // that a policy of another module has set, such as a cookie
}

// guest chooses by a selection policy of another module. Its code runs without a lock,
// so that it can neither block the other handshakes of the process nor deadlock.
type guest struct {
	selector reverseproxy.Selector
}

// guestUpstream is what such a policy gets to see of an upstream. It may hash the
// address, so that is spelled as reverse_proxy would.
func guestUpstream(dial string) *reverseproxy.Upstream {
	return &reverseproxy.Upstream{Dial: dial, Host: new(reverseproxy.Host)}
}

// Pick chooses among candidates. If its choice has filled up meanwhile, it is asked
// again.
func (g *guest) Pick(c *upstream.Candidates, r *http.Request) picked {
	for range c.Count() + 1 {
		options := c.Options()
		upstreams := make(reverseproxy.UpstreamPool, len(options))
		for i, e := range options {
			upstreams[i], _ = e.Server.Known.(*reverseproxy.Upstream) // which all of this pool have
		}
		// Not the client's header: a choice that comes to nothing must not
		// leave its cookie there.
		w := scratchWriter{header: make(http.Header)}
		i := slices.Index(upstreams, g.selector.Select(upstreams, r, w))
		if i < 0 {
			return picked{}
		}
		if chosen := c.Reserve(options[i]); chosen != nil {
			return picked{chosen, w.header}
		}
	}
	return picked{}
}

// scratchWriter is a response that is never sent. It collects the header
// fields that a selection policy sets.
type scratchWriter struct {
	header http.Header
}

func (w scratchWriter) Header() http.Header         { return w.header }
func (w scratchWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w scratchWriter) WriteHeader(int)             {}

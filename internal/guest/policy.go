// Package guest lets modules of Caddy's reverse_proxy choose and find upstreams: its
// selection policies and its sources. It knows Caddy's interfaces of these and how they are
// loaded, but no handler: what an address is, where upstreams go and who is told what
// happens to a source is given to it.
//
// It has no locks. The code of modules may take any time, so none of others may be held
// when they are asked.
package guest

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Policy chooses by a selection policy of reverse_proxy. Its code runs without a lock,
// so that it can neither block the other handshakes of the process nor deadlock.
type Policy struct {
	Selector reverseproxy.Selector
}

// LoadPolicy loads the policy that is in a field of a configuration.
func LoadPolicy(ctx caddy.Context, config any, field string) (*Policy, error) {
	mod, err := ctx.LoadModule(config, field)
	if err != nil {
		return nil, err
	}
	selector, ok := mod.(reverseproxy.Selector)
	if !ok {
		return nil, fmt.Errorf("%T does not select upstreams", mod)
	}
	return &Policy{selector}, nil
}

// NewUpstream makes what policies get to see of an upstream: the Known of its server. They
// may hash the address, so that is spelled as reverse_proxy would.
func NewUpstream(dial string) *reverseproxy.Upstream {
	return &reverseproxy.Upstream{Dial: dial, Host: new(reverseproxy.Host)}
}

// Pick chooses among candidates, and returns the header that the policy has set for the
// client, such as a cookie. If its choice has filled up meanwhile, it is asked again.
func (p *Policy) Pick(c *upstream.Candidates, r *http.Request) (*upstream.Choice, http.Header) {
	for range c.Count() + 1 {
		options := c.Options()
		upstreams := make(reverseproxy.UpstreamPool, len(options))
		for i, e := range options {
			upstreams[i], _ = e.Server.Known.(*reverseproxy.Upstream) // which all of this pool have
		}
		// Not the client's header: a choice that comes to nothing must not
		// leave its cookie there.
		w := scratchWriter{header: make(http.Header)}
		i := slices.Index(upstreams, p.Selector.Select(upstreams, r, w))
		if i < 0 {
			return nil, nil
		}
		if chosen := c.Reserve(options[i]); chosen != nil {
			return chosen, w.header
		}
	}
	return nil, nil
}

// scratchWriter is a response that is never sent. It collects the header
// fields that a selection policy sets.
type scratchWriter struct {
	header http.Header
}

func (w scratchWriter) Header() http.Header         { return w.header }
func (w scratchWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w scratchWriter) WriteHeader(int)             {}

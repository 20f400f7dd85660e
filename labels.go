package websocketproxy

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/farewell"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/label"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/server"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// expandFor expands the placeholders of a request, those that are not known to nothing.
func expandFor(r *http.Request) func(string) string {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return func(s string) string { return repl.ReplaceAll(s, "") }
}

// labelsOf are the labels of the tunnel that a request becomes.
func (h *Handler) labelsOf(r *http.Request) *tunnel.Labels {
	if len(h.Labels) == 0 {
		return nil
	}
	return tunnel.NewLabels(label.Expanded(h.Labels, expandFor(r)))
}

// deadline is when the tunnel expires that a request becomes; nil means never.
func (h *Handler) deadline(r *http.Request) (*tunnel.Deadline, *refusal) {
	if h.Expiry == nil {
		return nil, nil
	}
	left, wrong := h.Expiry.Left(expandFor(r)(h.Expiry.At), time.Now())
	switch {
	case wrong != nil:
		return nil, refuseExpiry(wrong)
	case left == 0:
		return nil, nil
	}
	return &tunnel.Deadline{
		At: h.live.Now().Add(left), Reason: tunnel.Expired, Code: h.Expiry.CloseCode(), Text: string(tunnel.Expired),
		Spread: rand.N(max(1, time.Duration(h.Expiry.Leeway))), //nolint:gosec // jitter is no secret
	}, nil
}

const (
	// mostFarewells is how many clients that have expired are told so by a Close at a time,
	// and farewellsPerClient how many of those that are told anything by one may be of one
	// client, of which there are more: it holds each as long as it likes to.
	mostFarewells, farewellsPerClient = 1000, 100
	// Who is to try again is held for so long at random: back-offs of clients begin anew
	// once a tunnel is open, so at once they would come back thousands of times.
	leastHold, mostHold = time.Second, 10 * time.Second
)

// farewells are the clients that are told of a refusal by a Close and count together: all
// of the process that have expired, or those of a handler that are to try again.
type farewells struct {
	handler upstream.ClientGroup // nil: they have expired
	ofOne   bool                 // one client's among them
}

// farewellFor says how a handshake is refused by a Close; nil if it is not. At most so many
// of its kind are at a time, and so many of one client.
func (h *Handler) farewellFor(f *refusal) (told *farewell.Farewell, all farewells, most, mostOfOne int) {
	switch f.cause {
	case causeExpired:
		if h.Expiry.OnExpired == expiry.Close {
			told = &farewell.Farewell{Code: h.Expiry.CloseCode(), Text: string(tunnel.Expired)}
			return told, farewells{}, mostFarewells, farewellsPerClient
		}
	case causeQueueFull, causeQueueTimeout, causeUpstreamFull:
		if most = h.balancing().RetryClose; most > 0 {
			hold := leastHold + rand.N(mostHold-leastHold) //nolint:gosec // jitter is no secret
			told = &farewell.Farewell{Code: frame.StatusTryAgainLater, Text: string(f.cause), Hold: hold}
			return told, farewells{handler: h.clientGroup()}, most, min(farewellsPerClient, max(1, most/10))
		}
	}
	return nil, farewells{}, 0, 0
}

// refuseByClose refuses a handshake by a Close, if that is configured and possible.
func (h *Handler) refuseByClose(w http.ResponseWriter, r *http.Request, hs *clientHandshake, f *refusal) error {
	told, all, most, mostOfOne := h.farewellFor(f)
	if told == nil {
		return h.refuse(w, r, &hs.account, f)
	}
	client, _ := upstream.ClientOf(clientIP(r)) // those of whom nothing is known are one
	own := process.clients.Enter(farewells{all.handler, true}, client, mostOfOne)
	if own == nil {
		return h.refuse(w, r, &hs.account, f)
	}
	defer own.Leave()
	place := process.clients.Enter(all, netip.Prefix{}, most)
	if place == nil {
		return h.refuse(w, r, &hs.account, f)
	}
	defer place.Leave()
	ctx, cancel := h.live.UntilExit(r.Context())
	defer cancel(nil)
	told.Offer, told.Conn = &hs.Offer, server.Conn(r.Context())
	told.Begun = func() { h.logRefusal(r, &hs.account, f, f.status) }
	if hs.Stream {
		defer server.LiftIdleTimeouts(r.Context())()
	}
	err := told.Tell(ctx, w, r)
	if errors.Is(err, farewell.ErrUnanswered) {
		return h.refuse(w, r, &hs.account, f)
	}
	return nil // what else is wrong is the client's
}

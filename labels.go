package websocketproxy

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/farewell"
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

// farewells is the group of those that are told of a refusal by a Close, of whom one
// client may be so many: it holds each as long as it likes to.
type farewells struct{}

const farewellsPerClient = 100

// refuseByClose refuses a handshake that has come too late by a Close, if that is
// configured and possible.
func (h *Handler) refuseByClose(w http.ResponseWriter, r *http.Request, hs *clientHandshake, f *refusal) error {
	if f.cause != causeExpired || h.Expiry.OnExpired != expiry.Close {
		return h.refuse(w, r, &hs.account, f)
	}
	client, _ := upstream.ClientOf(clientIP(r)) // those of whom nothing is known are one
	place := process.clients.Enter(farewells{}, client, farewellsPerClient)
	if place == nil {
		return h.refuse(w, r, &hs.account, f)
	}
	defer place.Leave()
	ctx, cancel := h.live.UntilExit(r.Context())
	defer cancel()
	err := process.farewells.Tell(ctx, w, r, &farewell.Farewell{
		Code: h.Expiry.CloseCode(), Text: string(tunnel.Expired), Offer: &hs.Offer, Conn: server.Conn(r.Context()),
		Begun: func() { h.logRefusal(r, &hs.account, f, f.status) },
	})
	if errors.Is(err, farewell.ErrUnanswered) {
		return h.refuse(w, r, &hs.account, f)
	}
	return nil // what else is wrong is the client's
}

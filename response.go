package websocketproxy

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/forward"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// writeHeader sends the header of an upstream's answer to the client: without
// what concerns the upstream's connection only, with the operator's header
// operations, what the selection policy wants to set, and last what finish
// sets.
func (h *Handler) writeHeader(w http.ResponseWriter, r *http.Request, a *answer, finish func(http.Header), status int) {
	from, to := a.Header, w.Header()
	forward.RemoveHopByHop(from)
	if h.Headers != nil && h.Headers.Response != nil {
		if ops := h.Headers.Response; ops.Require == nil || ops.Require.Match(a.StatusCode, from) {
			repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			ops.ApplyTo(from, repl)
		}
	}
	delete(to, "Server") // Caddy's own; Via says who passed the answer on
	via := http.Header{"Via": {forward.Via(a.ProtoMajor, a.ProtoMinor)}}
	for _, fields := range []http.Header{from, a.choice.header, via} {
		for name, values := range fields {
			name = handshake.Spell(name)
			to[name] = append(to[name], values...)
		}
	}
	if status == http.StatusSwitchingProtocols || a.StatusCode == http.StatusSwitchingProtocols {
		delete(to, "Content-Length") // RFC 9110 section 8.6: not in a 101
	}
	finish(to)
	w.WriteHeader(status)
}

// passAnswer gives the client what the upstream answered instead of a 101. The
// client's connection stays ordinary HTTP.
func (h *Handler) passAnswer(w http.ResponseWriter, r *http.Request, hs *clientHandshake, a *answer) error {
	refused := refuseAnswered(a)
	if hs.Stream && a.StatusCode < 300 {
		// A 2xx is how a CONNECT is accepted.
		refused.status = http.StatusBadGateway
		return h.refuse(w, r, refused)
	}
	h.logRefusal(r, refused, a.StatusCode)
	upgrade := a.Header["Upgrade"]
	h.writeHeader(w, r, a, func(header http.Header) {
		if a.StatusCode == http.StatusUpgradeRequired && !hs.Stream && len(upgrade) > 0 {
			header["Upgrade"] = upgrade
			header["Connection"] = []string{"Upgrade"}
		}
	}, a.StatusCode)
	ctx, cancel := h.live.UntilExit(r.Context())
	defer cancel()
	if err := forward.Body(ctx, w, a, h.tunnelPolicy.Idle, h.tunnelPolicy.Write); err != nil {
		// The status is out; all that can still be said is that the body is
		// not whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

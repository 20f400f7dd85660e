package websocketproxy

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/forward"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// outbound makes the request for the upstream from the client's, before
// anything that depends on the chosen upstream. Host and Origin stay as they
// are: servers compare them with each other.
func (h *Handler) outbound(r *http.Request, hs *clientHandshake) *http.Request {
	const added = 8
	header := make(http.Header, len(r.Header)+added) // has room for all at once
	for name, values := range r.Header {
		header[name] = slices.Clip(values) // nobody changes them where they are
	}
	out := (&http.Request{Method: http.MethodGet, URL: r.URL, Header: header, Host: r.Host}).WithContext(r.Context())
	delete(out.Header, ":protocol")
	forward.RemoveHopByHop(out.Header)
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		out.Header["Early-Data"] = []string{"1"} // RFC 8470 section 5.1
	}
	delete(out.Header, handshake.Canonical(handshake.FieldProtocol))
	if len(hs.Subprotocols) > 0 {
		out.Header.Set(handshake.FieldProtocol, strings.Join(hs.Subprotocols, ", "))
	}
	forward.SetForwarded(out.Header, h.peerOf(r), r.TLS != nil, r.Host)
	out.Header["Via"] = append(out.Header["Via"], forward.Via(r.ProtoMajor, r.ProtoMinor))
	return out
}

// askedOf is the request that a selection policy gets to see. Sticky ones and those of other
// modules choose by the header that reverse_proxy shows them: with
// X-Forwarded-For and its companions as the upstream gets them, so that a client
// has no say in what it is taken for.
func (h *Handler) askedOf(r, out *http.Request) *http.Request {
	if h.guest == nil && h.sticky == nil {
		return r
	}
	asked := new(http.Request)
	*asked = *r
	asked.Header = out.Header.Clone()
	asked.Header["Connection"] = []string{"Upgrade"}
	asked.Header["Upgrade"] = []string{"websocket"}
	return asked
}

// asksAllAlike reports whether the request is the same for all upstreams, so that it is
// made once: neither operations, which may use placeholders about the upstream, nor traces
// make a difference.
func (h *Handler) asksAllAlike(hs *clientHandshake) bool {
	return (h.Headers == nil || h.Headers.Request == nil) && hs.trace == nil
}

// prepareFor makes the request for the chosen upstream from a copy of out, with
// the operator's header operations and the handshake's own fields.
func (h *Handler) prepareFor(c picked, out *http.Request, hs *clientHandshake, repl *caddy.Replacer) (made *http.Request) {
	defer func() {
		if made == nil { // placeholders are up to other modules, which may panic
			hs.attempt.Done(endOf(nil, nil))
			process.table.TrialOver(c.Choice)
			c.leave()
		}
	}()
	setUpstream(repl, c.Endpoint.Address, c.Tunnels, c.Endpoint.Server.MaxTunnels, c.Fails)
	if h.asksAllAlike(hs) {
		return out // nobody changes it
	}
	attempt := new(http.Request)
	*attempt = *out
	attempt.Header = out.Header.Clone()
	hs.attempt.Inject(attempt.Header)
	if h.Headers != nil && h.Headers.Request != nil {
		h.Headers.Request.ApplyToRequest(attempt)
	}
	hs.Apply(attempt)
	return attempt
}

// proxyProtocolVar is the variable with the client that the PROXY protocol names.
const proxyProtocolVar = "reverse_proxy.proxy_protocol_info"

// setProxyProtocol tells the transport which client to name in the PROXY
// protocol header, if it sends one, by the variable that reverse_proxy uses for it.
func (h *Handler) setProxyProtocol(r *http.Request) {
	if !h.transport.http.ProxyProtocolEnabled() {
		return
	}
	ip := clientIP(r)
	addrPort, err := netip.ParseAddrPort(ip)
	if err != nil {
		addr, _ := netip.ParseAddr(ip) // the zero Addr makes the transport say what is wrong
		addrPort = netip.AddrPortFrom(addr, 0)
	}
	caddyhttp.SetVar(r.Context(), proxyProtocolVar,
		reverseproxy.ProxyProtocolInfo{AddrPort: addrPort})
}

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
	for _, fields := range [...]http.Header{from, a.choice.header} {
		for name, values := range fields {
			name = handshake.Spell(name)
			if prior := to[name]; len(prior) > 0 {
				values = append(prior, values...)
			}
			to[name] = values
		}
	}
	to["Via"] = append(to["Via"], forward.Via(a.ProtoMajor, a.ProtoMinor))
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
		return h.refuse(w, r, &hs.account, refused)
	}
	h.logRefusal(r, &hs.account, refused, a.StatusCode)
	upgrade := a.Header["Upgrade"]
	h.writeHeader(w, r, a, func(header http.Header) {
		if a.StatusCode == http.StatusUpgradeRequired && !hs.Stream && len(upgrade) > 0 {
			header["Upgrade"] = upgrade
			header["Connection"] = []string{"Upgrade"}
		}
	}, a.StatusCode)
	ctx, cancel := h.live.UntilExit(r.Context())
	defer cancel(nil)
	if err := forward.Body(ctx, w, a, h.tunnelPolicy.Idle, h.tunnelPolicy.Write); err != nil {
		// The status is out; all that can still be said is that the body is
		// not whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (h *Handler) checkHeaders() error {
	if h.Headers == nil {
		return nil
	}
	if problem := headersProblem(h.Headers); problem != "" {
		return errors.New("headers: " + problem)
	}
	return nil
}

// ownRequestFields are those that the request for the upstream has from the handshake,
// or from net/http, whatever operations do to them.
var ownRequestFields = []string{
	"Upgrade", "Connection", handshake.FieldKey, handshake.FieldVersion, handshake.FieldAccept,
	"Content-Length", "Transfer-Encoding", "Trailer",
}

// ownResponseFields are those of the answer to the client. Operations on Connection
// have an effect on answers other than 101.
var ownResponseFields = []string{"Upgrade", handshake.FieldAccept}

// headersProblem prepares header operations, and returns what is wrong with them, if
// anything. It does not change what they say.
func headersProblem(h *headers.Handler) string {
	if err := h.Provision(caddy.Context{}); err != nil {
		return err.Error()
	}
	if err := h.Validate(); err != nil {
		return err.Error()
	}
	const noEffect = "%s cannot be changed in the %s, as the handshake decides about it; remove it"
	if field := firstOf(h.Request, ownRequestFields); field != "" {
		return fmt.Sprintf(noEffect, field, "request")
	}
	if h.Response == nil {
		return ""
	}
	if field := firstOf(h.Response.HeaderOps, ownResponseFields); field != "" {
		return fmt.Sprintf(noEffect, field, "answer")
	}
	return ""
}

// firstOf returns the first of some fields that operations name, if they name any. A
// wildcard may mean others.
func firstOf(ops *headers.HeaderOps, fields []string) string {
	if ops == nil {
		return ""
	}
	var named []string
	for _, names := range [][]string{
		slices.Collect(maps.Keys(ops.Add)), slices.Collect(maps.Keys(ops.Set)), ops.Delete, slices.Collect(maps.Keys(ops.Replace)),
	} {
		for _, name := range names {
			named = append(named, http.CanonicalHeaderKey(name))
		}
	}
	for _, field := range fields {
		if slices.Contains(named, http.CanonicalHeaderKey(field)) {
			return field
		}
	}
	return ""
}

package websocketproxy

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/forward"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// outbound makes the request for the upstream from the client's, before
// anything that depends on the chosen upstream. Host and Origin stay as they
// are: servers compare them with each other.
func (h *Handler) outbound(r *http.Request, hs *clientHandshake) *http.Request {
	out := (&http.Request{
		Method: http.MethodGet,
		URL:    r.URL,
		Header: r.Header.Clone(),
		Host:   r.Host,
	}).WithContext(r.Context())
	delete(out.Header, ":protocol")
	forward.RemoveHopByHop(out.Header)
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		out.Header["Early-Data"] = []string{"1"} // RFC 8470 section 5.1
	}
	delete(out.Header, http.CanonicalHeaderKey(handshake.FieldProtocol))
	if len(hs.Subprotocols) > 0 {
		out.Header.Set(handshake.FieldProtocol, strings.Join(hs.Subprotocols, ", "))
	}
	forward.SetForwarded(out.Header, h.peerOf(r), r.TLS != nil, r.Host)
	out.Header["Via"] = append(out.Header["Via"], forward.Via(r.ProtoMajor, r.ProtoMinor))
	return out
}

// peerOf returns who a request has come from. It is trusted by the server's
// trusted_proxies, or by the handler's own.
func (h *Handler) peerOf(r *http.Request) forward.Peer {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return forward.PeerOf(r.RemoteAddr, trusted, h.trustedProxies)
}

// askedOf is the request that a selection policy gets to see. Those of other
// modules choose by the header that reverse_proxy shows them: with
// X-Forwarded-For and its companions as the upstream gets them, so that a client
// has no say in what it is taken for.
func (h *Handler) askedOf(r, out *http.Request) *http.Request {
	if h.guest == nil {
		return r
	}
	asked := new(http.Request)
	*asked = *r
	asked.Header = out.Header.Clone()
	asked.Header["Connection"] = []string{"Upgrade"}
	asked.Header["Upgrade"] = []string{"websocket"}
	return asked
}

// prepareFor makes the request for the chosen upstream from a copy of out, with
// the operator's header operations, which may use placeholders about the
// upstream, and the handshake's own fields.
func (h *Handler) prepareFor(c picked, out *http.Request, hs *clientHandshake, repl *caddy.Replacer) *http.Request {
	setUpstream(repl, c.Endpoint.Address, c.Tunnels, c.Endpoint.Server.MaxTunnels, c.Fails)
	attempt := new(http.Request)
	*attempt = *out
	attempt.Header = out.Header.Clone()
	if h.Headers != nil && h.Headers.Request != nil {
		h.Headers.Request.ApplyToRequest(attempt)
	}
	hs.Apply(attempt)
	return attempt
}

// proxyProtocolVar is the variable with the client that the PROXY protocol names.
const proxyProtocolVar = "reverse_proxy.proxy_protocol_info"

// setProxyProtocol tells the transport which client to name in the PROXY
// protocol header, by the variable that reverse_proxy uses for it.
func setProxyProtocol(r *http.Request) {
	ip := clientIP(r)
	addrPort, err := netip.ParseAddrPort(ip)
	if err != nil {
		addr, _ := netip.ParseAddr(ip) // the zero Addr makes the transport say what is wrong
		addrPort = netip.AddrPortFrom(addr, 0)
	}
	caddyhttp.SetVar(r.Context(), proxyProtocolVar,
		reverseproxy.ProxyProtocolInfo{AddrPort: addrPort})
}

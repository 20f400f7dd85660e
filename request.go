package websocketproxy

import (
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// hopByHop are the fields that concern one connection only, the same that
// reverse_proxy removes (RFC 9110 section 7.6.1).
var hopByHop = []string{
	"Alt-Svc",
	"Connection",
	"Proxy-Connection", // not standard, but sent
	"Keep-Alive",
	"Proxy-Authenticate",
	"Proxy-Authorization",
	"Te",
	"Trailer",
	"Transfer-Encoding",
	"Upgrade",
}

// removeHopByHop removes what concerns one connection only, also what
// Connection names.
func removeHopByHop(header http.Header) {
	for _, name := range handshake.ListValues(header["Connection"]) {
		header.Del(textproto.TrimString(name))
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
}

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
	removeHopByHop(out.Header)
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		out.Header["Early-Data"] = []string{"1"} // RFC 8470 section 5.1
	}
	delete(out.Header, http.CanonicalHeaderKey(handshake.FieldProtocol))
	if len(hs.Subprotocols) > 0 {
		out.Header.Set(handshake.FieldProtocol, strings.Join(hs.Subprotocols, ", "))
	}
	h.setForwarded(out.Header, r)
	via := strconv.Itoa(r.ProtoMajor) + "." + strconv.Itoa(r.ProtoMinor) + " Caddy"
	out.Header["Via"] = append(out.Header["Via"], via)
	return out
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

// setForwarded sets X-Forwarded-For, -Proto and -Host as reverse_proxy does:
// what a trusted proxy in front of Caddy sent is kept and added to, what anyone
// else sent is replaced.
func (h *Handler) setForwarded(header http.Header, r *http.Request) {
	peer, trusted, known := h.forwardingPeer(r)
	if !known {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
			delete(header, name)
		}
		return
	}
	forwardedFor := header["X-Forwarded-For"]
	if prior := strings.Join(forwardedFor, ", "); trusted && prior != "" {
		peer = strings.TrimSuffix(prior+", "+peer, ", ")
	}
	if peer != "" && !omitted(header, "X-Forwarded-For") {
		header["X-Forwarded-For"] = []string{peer}
	}
	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	for name, value := range map[string]string{"X-Forwarded-Proto": proto, "X-Forwarded-Host": r.Host} {
		if values := header[name]; trusted && len(values) > 0 && values[len(values)-1] != "" {
			value = values[len(values)-1]
		}
		if !omitted(header, name) {
			header[name] = []string{value}
		}
	}
}

// omitted reports whether an earlier handler has forbidden the field, which net/http
// expresses as a nil value.
func omitted(header http.Header, name string) bool {
	values, ok := header[name]
	return ok && values == nil
}

// forwardingPeer returns the address of who the request came from, which is
// empty for a unix socket, and whether it is trusted to say for whom it
// forwards. Nothing is known about an address of another form, or about an
// untrusted unix socket.
func (h *Handler) forwardingPeer(r *http.Request) (ip string, trusted, known bool) {
	trusted, _ = caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	if r.RemoteAddr == "@" {
		return "", trusted, trusted
	}
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "", false, false
	}
	ip, _, _ = strings.Cut(ip, "%")
	if addr, err := netip.ParseAddr(ip); err == nil {
		trusted = trusted || slices.ContainsFunc(h.trustedProxies, func(p netip.Prefix) bool {
			return p.Contains(addr)
		})
	}
	return ip, trusted, true
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

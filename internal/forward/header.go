// Package forward is what a proxy does with a message that it passes on, whichever way:
// what it takes out of the header and what it adds there, and how the body goes on
// within its times. It knows net/http, but nothing of tunnels, and of Caddy only the name.
// It has no locks.
package forward

import (
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

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

// RemoveHopByHop removes what concerns one connection only, also what
// Connection names.
func RemoveHopByHop(header http.Header) {
	for _, name := range handshake.ListValues(header["Connection"]) {
		header.Del(textproto.TrimString(name))
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
}

// Via is what the field of this name gets for a message that has come in this version of
// HTTP (RFC 9110 section 7.6.3).
func Via(major, minor int) string {
	if major == 1 && minor == 1 {
		return "1.1 Caddy" // without an allocation for each
	}
	return strconv.Itoa(major) + "." + strconv.Itoa(minor) + " Caddy"
}

// Peer is who a request has come from.
type Peer struct {
	IP string // empty for a unix socket
	// Trusted tells that it may say for whom it forwards.
	Trusted bool
	// Known is not set for an address of another form, nor for an untrusted unix socket.
	Known bool
}

// PeerOf returns who has sent a request from an address as the server gives it.
// It is trusted if the server says that, or if it is one of the proxies.
func PeerOf(remoteAddr string, trusted bool, proxies []netip.Prefix) Peer {
	if remoteAddr == "@" {
		return Peer{Trusted: trusted, Known: trusted}
	}
	ip, _, err := net.SplitHostPort(remoteAddr)
	if err != nil {
		return Peer{}
	}
	ip, _, _ = strings.Cut(ip, "%")
	if addr, err := netip.ParseAddr(ip); err == nil {
		trusted = trusted || slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	return Peer{IP: ip, Trusted: trusted, Known: true}
}

// SetForwarded sets X-Forwarded-For, -Proto and -Host as reverse_proxy does, for a
// request to a host that has come by TLS or without: what a trusted proxy in front of
// Caddy sent is kept and added to, what anyone else sent is replaced.
func SetForwarded(header http.Header, from Peer, secure bool, host string) {
	if !from.Known {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
			delete(header, name)
		}
		return
	}
	forwardedFor := from.IP
	if prior := strings.Join(header["X-Forwarded-For"], ", "); from.Trusted && prior != "" {
		forwardedFor = strings.TrimSuffix(prior+", "+from.IP, ", ")
	}
	if forwardedFor != "" && !omitted(header, "X-Forwarded-For") {
		header["X-Forwarded-For"] = []string{forwardedFor}
	}
	proto := "http"
	if secure {
		proto = "https"
	}
	own := []string{proto, host} // one piece of memory for both
	for i, name := range [...]string{"X-Forwarded-Proto", "X-Forwarded-Host"} {
		if values := header[name]; from.Trusted && len(values) > 0 && values[len(values)-1] != "" {
			own[i] = values[len(values)-1]
		}
		if !omitted(header, name) {
			header[name] = own[i : i+1 : i+1]
		}
	}
}

// omitted reports whether an earlier handler has forbidden the field, which net/http
// expresses as a nil value.
func omitted(header http.Header, name string) bool {
	values, ok := header[name]
	return ok && values == nil
}

package handshake

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// isUpgrade reports whether r asks to upgrade its HTTP/1.1 connection to
// WebSocket, whatever its method. HTTP/1.0 has no upgrade and HTTP/2 and 3 have
// another way (RFC 9110 section 7.8).
func isUpgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ProtoMinor >= 1 &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// IsUpgradeOfHTTP10 reports whether r has the fields of a handshake in a version
// without upgrades (RFC 9110 section 7.8). reverse_proxy makes a tunnel of it all
// the same, so whoever refuses sockets means it too.
func IsUpgradeOfHTTP10(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ProtoMinor == 0 &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// isExtendedConnect reports whether r is an extended CONNECT for WebSocket.
func isExtendedConnect(r *http.Request) bool {
	return ConnectProtocol(r) == "websocket"
}

// ConnectProtocol returns the protocol of an extended CONNECT, or nothing. The
// HTTP/2 server leaves the pseudo-field in the header, the HTTP/3 server puts it
// into Proto.
func ConnectProtocol(r *http.Request) string {
	if r.Method != http.MethodConnect {
		return ""
	}
	switch r.ProtoMajor {
	case 2:
		if protocol := r.Header[":protocol"]; len(protocol) == 1 {
			return protocol[0]
		}
	case 3:
		if r.Proto != "HTTP/3.0" {
			return r.Proto
		}
	}
	return ""
}

// IsWebSocket reports whether r asks for a WebSocket, in whatever version of HTTP.
func IsWebSocket(r *http.Request) bool {
	return isUpgrade(r) || isExtendedConnect(r)
}

// RemoveIgnoredUpgrade removes from a request that asks for no WebSocket what RFC
// 9110 section 7.8 and RFC 9113 say to ignore: Upgrade outside HTTP/1.1 or not named
// in Connection, and h2c. Whoever gets the request next may be less careful, and
// would open a tunnel for it, past whatever protects the upstream.
func RemoveIgnoredUpgrade(r *http.Request) {
	if len(r.Header["Upgrade"]) == 0 {
		return
	}
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 ||
		!httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") {
		delete(r.Header, "Upgrade")
		return
	}
	var kept []string
	for _, protocol := range ListValues(r.Header["Upgrade"]) {
		if !strings.EqualFold(protocol, "h2c") {
			kept = append(kept, protocol)
		}
	}
	if len(kept) == 0 {
		delete(r.Header, "Upgrade")
		return
	}
	r.Header["Upgrade"] = []string{strings.Join(kept, ", ")}
}

// Disarm takes from a request what asks for a tunnel, in whatever version of HTTP.
func Disarm(r *http.Request) {
	if r.ProtoMajor == 1 {
		delete(r.Header, "Upgrade")
		options := slices.DeleteFunc(ListValues(r.Header["Connection"]), func(option string) bool {
			return strings.EqualFold(option, "upgrade")
		})
		delete(r.Header, "Connection")
		if len(options) > 0 {
			r.Header["Connection"] = []string{strings.Join(options, ", ")}
		}
		return
	}
	delete(r.Header, ":protocol")
	if r.ProtoMajor == 3 {
		r.Proto = "HTTP/3.0" // where the HTTP/3 server has put the protocol
	}
}

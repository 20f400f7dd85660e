package websocketproxy

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// The names of header fields as RFC 6455 spells them. Go's canonical form
// differs ("Sec-Websocket-Key"), and some servers compare bytes, so these are
// put into header maps as they are.
const (
	fieldKey        = "Sec-WebSocket-Key"
	fieldAccept     = "Sec-WebSocket-Accept"
	fieldVersion    = "Sec-WebSocket-Version"
	fieldProtocol   = "Sec-WebSocket-Protocol"
	fieldExtensions = "Sec-WebSocket-Extensions"
)

// handshake is a client's valid request for a tunnel.
type handshake struct {
	// tunnelID is the id of the tunnel that it may become.
	tunnelID string
	// stream tells that it is an extended CONNECT: the tunnel is a stream of
	// an HTTP/2 or HTTP/3 connection (RFC 8441, RFC 9220).
	stream bool
	// key is the Sec-WebSocket-Key for the upstream, the client's own where it
	// has one.
	key string
	// subprotocols and extensions are the names that are offered to the
	// upstream.
	subprotocols, extensions []string
	// place is the client's among its tunnels, until a tunnel has it.
	place *clientPlace
	// client is where informational responses go; nil if nobody is to get them.
	client http.ResponseWriter
}

// isUpgrade reports whether r asks to upgrade its HTTP/1.1 connection to
// WebSocket, whatever its method. HTTP/1.0 has no upgrade and HTTP/2 and 3 have
// another way (RFC 9110 section 7.8).
func isUpgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ProtoMinor >= 1 &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// isExtendedConnect reports whether r is an extended CONNECT for WebSocket.
func isExtendedConnect(r *http.Request) bool {
	return connectProtocol(r) == "websocket"
}

// connectProtocol returns the protocol of an extended CONNECT, or nothing. The
// HTTP/2 server leaves the pseudo-field in the header, the HTTP/3 server puts it
// into Proto.
func connectProtocol(r *http.Request) string {
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

// isOurs reports whether r asks for a WebSocket. Such a request never goes to
// the next handler: what stands there would open a tunnel without the checks.
func isOurs(r *http.Request) bool {
	return isUpgrade(r) || isExtendedConnect(r)
}

// removeIgnoredUpgrade removes from a request that is not ours what RFC 9110
// section 7.8 and RFC 9113 say to ignore: Upgrade outside HTTP/1.1 or not named
// in Connection, and h2c. A handler behind us that is less careful would open a
// tunnel for it, past whatever protects the upstream.
func removeIgnoredUpgrade(r *http.Request) {
	if len(r.Header["Upgrade"]) == 0 {
		return
	}
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 ||
		!httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") {
		delete(r.Header, "Upgrade")
		return
	}
	var kept []string
	for _, protocol := range listValues(r.Header["Upgrade"]) {
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

// checkHandshake checks a request that is ours (RFC 6455 section 4.2.1,
// RFC 8441 section 5).
func (h *Handler) checkHandshake(r *http.Request) (*handshake, *refusal) {
	hs := &handshake{tunnelID: rand.Text()[:16], stream: isExtendedConnect(r)}
	if !hs.stream && r.Method != http.MethodGet {
		return nil, refuseMethod(fmt.Errorf("a handshake is a GET, not a %s", r.Method))
	}
	if refused := checkVersion(r, hs.stream); refused != nil {
		return nil, refused
	}
	if err := hs.checkForm(r); err != nil {
		return nil, &refusal{cause: causeMalformed, status: http.StatusBadRequest, err: err}
	}
	if err := h.access.checkOrigin(r, h.access.sameOrigin && h.isSecure(r)); err != nil {
		return nil, &refusal{cause: causeOrigin, status: http.StatusForbidden, err: err}
	}
	subprotocols, err := h.access.filterSubprotocols(listValues(r.Header.Values(fieldProtocol)))
	if err != nil {
		return nil, &refusal{cause: causeSubprotocol, status: http.StatusBadRequest, err: err}
	}
	hs.subprotocols = subprotocols
	hs.extensions = extensionNames(r.Header.Values(fieldExtensions))
	return hs, nil
}

// checkVersion refuses other versions of the protocol than 13, and tells the
// client which one is spoken here (RFC 6455 section 4.2.2 and 4.4).
func checkVersion(r *http.Request, stream bool) *refusal {
	versions := listValues(r.Header.Values(fieldVersion))
	supported := http.Header{fieldVersion: {"13"}}
	refused := &refusal{cause: causeVersion, status: http.StatusBadRequest, header: supported}
	if len(versions) == 0 {
		refused.cause, refused.err = causeMalformed, errors.New("no "+fieldVersion)
		return refused
	}
	for _, v := range versions[1:] {
		if v != versions[0] {
			refused.cause, refused.err = causeMalformed, fmt.Errorf("differing %s: %q", fieldVersion, versions)
			return refused
		}
	}
	if versions[0] == "13" {
		return nil
	}
	refused.err = fmt.Errorf("version %q is not supported", versions[0])
	if !stream {
		// 426 demands Upgrade, which HTTP/2 and 3 do not have.
		refused.status = http.StatusUpgradeRequired
		supported["Upgrade"] = []string{"websocket"}
		supported["Connection"] = []string{"Upgrade"}
	}
	return refused
}

// checkForm checks the rest of the request's form and takes or makes the key.
func (hs *handshake) checkForm(r *http.Request) error {
	if err := checkTarget(r.URL); err != nil {
		return err
	}
	if hs.stream {
		// Not even zero (RFC 9110 section 9.3.6): the servers would take what is
		// sent through the tunnel for too much of a body. HTTP/2's makes zero of
		// what is no number.
		if len(r.Header["Content-Length"]) > 0 || r.ContentLength > 0 {
			return errors.New("has a Content-Length")
		}
		hs.key = newKey()
		return nil
	}
	// A body would be read as frames, or keep a tunnel's connection under the
	// server's timeouts for bodies.
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return errors.New("has a body")
	}
	keys := r.Header.Values(fieldKey)
	if len(keys) != 1 || !httpguts.ValidHeaderFieldValue(keys[0]) {
		return fmt.Errorf("%d %s fields, not a valid one", len(keys), fieldKey)
	}
	// There are devices whose keys are not 16 bytes in base64, and servers that do
	// not mind. What answers it has to judge it.
	hs.key = keys[0]
	return nil
}

// checkTarget checks what goes upstream as the target of the request, after rewrites
// (RFC 9112 section 3.2). A URL may hold more than such a target: what is no path,
// and what would end the request line.
func checkTarget(u *url.URL) error {
	switch scheme := strings.ToLower(u.Scheme); {
	case scheme != "" && scheme != "http" && scheme != "https", u.Opaque != "":
		return errors.New("the request's target is neither a path nor an http URL")
	case !strings.HasPrefix(u.RequestURI(), "/"):
		return errors.New("the path of the request's target does not begin with /")
	case strings.ContainsFunc(u.RequestURI(), func(c rune) bool { return c <= ' ' || c == 0x7f }):
		return errors.New("the request's target has a space or a control character")
	}
	return nil
}

// newKey returns a Sec-WebSocket-Key.
func newKey() string {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

// listValues splits the comma-separated lists of several field lines into
// their elements (RFC 9110 section 5.6.1).
func listValues(lines []string) []string {
	var values []string
	for _, line := range lines {
		for v := range strings.SplitSeq(line, ",") {
			if v = strings.Trim(v, " \t"); v != "" {
				values = append(values, v)
			}
		}
	}
	return values
}

// extensionNames returns the names in Sec-WebSocket-Extensions, without their
// parameters. A quoted parameter value is a token too (RFC 6455 section 9.1),
// so it has no comma.
func extensionNames(lines []string) []string {
	names := listValues(lines)
	for i, name := range names {
		name, _, _ = strings.Cut(name, ";")
		names[i] = strings.TrimRight(name, " \t")
	}
	return names
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for _, c := range s {
		if !httpguts.IsTokenRune(c) {
			return false
		}
	}
	return s != ""
}

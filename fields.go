package websocketproxy

import (
	"net/http"
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

// spellings are the names of these fields by Go's canonical form, in which they
// arrive.
var spellings = map[string]string{
	http.CanonicalHeaderKey(fieldKey):        fieldKey,
	http.CanonicalHeaderKey(fieldAccept):     fieldAccept,
	http.CanonicalHeaderKey(fieldVersion):    fieldVersion,
	http.CanonicalHeaderKey(fieldProtocol):   fieldProtocol,
	http.CanonicalHeaderKey(fieldExtensions): fieldExtensions,
}

// spell returns the name of a field, in Go's canonical form, as it is sent.
func spell(canonical string) string {
	if name, ok := spellings[canonical]; ok {
		return name
	}
	return canonical
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

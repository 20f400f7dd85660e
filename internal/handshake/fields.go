package handshake

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// The names of header fields as RFC 6455 spells them. Go's canonical form
// differs ("Sec-Websocket-Key"), and some servers compare bytes, so these are
// put into header maps as they are.
const (
	FieldKey        = "Sec-WebSocket-Key"
	FieldAccept     = "Sec-WebSocket-Accept"
	FieldVersion    = "Sec-WebSocket-Version"
	FieldProtocol   = "Sec-WebSocket-Protocol"
	FieldExtensions = "Sec-WebSocket-Extensions"
)

// spellings are the names of these fields by Go's canonical form, in which they
// arrive.
var spellings = map[string]string{
	http.CanonicalHeaderKey(FieldKey):        FieldKey,
	http.CanonicalHeaderKey(FieldAccept):     FieldAccept,
	http.CanonicalHeaderKey(FieldVersion):    FieldVersion,
	http.CanonicalHeaderKey(FieldProtocol):   FieldProtocol,
	http.CanonicalHeaderKey(FieldExtensions): FieldExtensions,
}

// Spell returns the name of a field, in Go's canonical form, as it is sent.
func Spell(canonical string) string {
	if name, ok := spellings[canonical]; ok {
		return name
	}
	return canonical
}

// ListValues splits the comma-separated lists of several field lines into
// their elements (RFC 9110 section 5.6.1).
func ListValues(lines []string) []string {
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
	names := ListValues(lines)
	for i, name := range names {
		name, _, _ = strings.Cut(name, ";")
		names[i] = strings.TrimRight(name, " \t")
	}
	return names
}

// IsToken reports whether s is a token (RFC 9110 section 5.6.2).
func IsToken(s string) bool {
	for _, c := range s {
		if !httpguts.IsTokenRune(c) {
			return false
		}
	}
	return s != ""
}

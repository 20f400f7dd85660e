package handshake

import (
	"strings"

	"golang.org/x/net/http/httpguts"
)

// ListValues splits the comma-separated lists of several field lines into
// their elements (RFC 9110 section 5.6.1).
func ListValues(lines []string) []string {
	var values []string
	for _, line := range lines {
		for more := line != ""; more; { // without the allocations of an iterator
			var v string
			v, line, more = strings.Cut(line, ",")
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

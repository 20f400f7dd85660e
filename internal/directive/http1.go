package directive

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// http1Fields are fields of a handshake that an extended CONNECT does not have
// (RFC 8441 section 5).
var http1Fields = []string{"Connection", "Upgrade", "Sec-WebSocket-Key"}

// http1Expression finds them in an expression, as names of arguments or in
// placeholders.
var http1Expression = regexp.MustCompile(`(?i)header[^)]*?['".](connection|upgrade|sec-websocket-key)['"\\}]`)

// OnlyInHTTP1 returns what matchers ask for that only handshakes over HTTP/1.1
// have, if anything.
func OnlyInHTTP1(matchers caddy.ModuleMap) string {
	for _, kind := range []string{"header", "header_regexp"} {
		var fields map[string]json.RawMessage
		_ = json.Unmarshal(matchers[kind], &fields) // what is not there or of another form asks for nothing
		for _, name := range http1Fields {
			for field, values := range fields { // none where it must not be there
				if strings.EqualFold(field, name) && string(values) != "null" {
					return "the field " + name
				}
			}
		}
	}
	var methods []string
	if json.Unmarshal(matchers["method"], &methods) == nil && !slices.ContainsFunc(methods, isConnect) {
		return "the method " + strings.Join(methods, " or ")
	}
	if found := http1Expression.FindSubmatch(matchers["expression"]); found != nil {
		return "the field " + http.CanonicalHeaderKey(string(found[1]))
	}
	return ""
}

func isConnect(method string) bool { return strings.EqualFold(method, http.MethodConnect) }

package websocketproxy

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// parseDirective is what httpcaddyfile has for directives that are a handler,
// with a look at the matcher.
func parseDirective(helper httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !helper.Next() {
		return nil, helper.ArgErr()
	}
	at := helper.Token()
	matchers, err := helper.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	if what := onlyInHTTP1(matchers); what != "" {
		// Adapters have warnings, but none for plugins to write.
		caddy.Log().Named("http.handlers.websocket_proxy").Warn("the matcher asks for what handshakes over HTTP/2 and HTTP/3 "+
			"do not have, so these go to the next handler; use the matcher websocket instead",
			zap.String("asks_for", what), zap.String("file", at.File), zap.Int("line", at.Line))
	}
	handler, err := parseCaddyfile(helper)
	if err != nil {
		return nil, err
	}
	return helper.NewRoute(matchers, handler), nil
}

// http1Fields are fields of a handshake that an extended CONNECT does not have
// (RFC 8441 section 5).
var http1Fields = []string{"Connection", "Upgrade", "Sec-WebSocket-Key"}

// http1Expression finds them in an expression, as names of arguments or in
// placeholders.
var http1Expression = regexp.MustCompile(`(?i)header[^)]*?['".](connection|upgrade|sec-websocket-key)['"\\}]`)

// onlyInHTTP1 returns what matchers ask for that only handshakes over HTTP/1.1
// have, if anything.
func onlyInHTTP1(matchers caddy.ModuleMap) string {
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

package websocketproxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// optionOf are the options that set what a path in JSON means, as the table of options
// says. What is not there, or not given, is looked for one step up.
var optionOf = make(map[string]string)

// notInCaddyfile replaces the names in texts that only JSON has.
var notInCaddyfile = strings.NewReplacer("dynamic_upstreams", "dynamic")

// lastStep is the last step of a path in JSON.
var lastStep = regexp.MustCompile(`(\.[a-z_]+|\[[0-9]+\]|^[a-z_]+)$`)

// note remembers that the token t is the i-th element of a list.
func (p *parser) note(list string, i int, t caddyfile.Token) {
	p.elements[fmt.Sprintf("%s[%d]", list, i)] = t
}

// mistake makes of an error that begins with a path in JSON one about an option and
// its line.
func (p *parser) mistake(err error) error {
	path, text, _ := strings.Cut(err.Error(), ": ")
	text = notInCaddyfile.Replace(text)
	at, isElement := p.elements[path]
	for set := path; set != ""; set = lastStep.ReplaceAllString(set, "") {
		option, ok := optionOf[set]
		switch given, isGiven := p.given[option]; {
		case !ok:
		case isElement:
			return errorAt(at, "%s %s", option, text)
		case isGiven && set == path:
			return errorAt(given, "%s %s", option, text)
		case isGiven:
			return errorAt(given, "%s: %s %s", option, path[len(set)+1:], text)
		}
	}
	return errorAt(p.directive, "websocket_proxy: %s: %s", path, text)
}

// warnOfHTTP1 warns of matchers that no handshake over HTTP/2 and HTTP/3 passes.
func warnOfHTTP1(matchers caddy.ModuleMap, directive caddyfile.Token) {
	if what := onlyInHTTP1(matchers); what != "" {
		// Adapters have warnings, but none for plugins to write.
		caddy.Log().Named("http.handlers.websocket_proxy").Warn("the matcher asks for what handshakes over HTTP/2 and HTTP/3 "+
			"do not have, so these go to the next handler; use the matcher websocket instead",
			zap.String("asks_for", what), zap.String("file", directive.File), zap.Int("line", directive.Line))
	}
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

// refusedOptions are the options of reverse_proxy that have no meaning for
// tunnels, with what to write instead.
var refusedOptions = map[string]string{
	"lb_retry_match": "handshakes are alike; use lb_retries, and lb_retry_status for those that an " +
		"upstream has answered",
	"health_path": "use health_uri",
	"unhealthy_status": "use lb_retry_status to have the next upstream asked, " +
		"or health_check to find out which ones cannot be used",
	"unhealthy_latency":       "use handshake_timeout",
	"unhealthy_request_count": "use max_tunnels of an upstream",
	"flush_interval":          "every byte is passed on at once; remove it",
	"request_buffers":         "a handshake has no body; remove it",
	"response_buffers":        "frames are passed on as they come; remove it",
	"stream_buffer_size":      "buffers follow the traffic of each tunnel; remove it",
	"stream_timeout":          "use max_lifetime",
	"stream_close_delay":      "tunnels outlive reloads; remove it",
	"verbose_logs":            "each tunnel has a log line; use the debug global option for more",
	"proxy_status_name":       "a 101 has no Proxy-Status; remove it",
	"method":                  "a handshake is always a GET; remove it",
	"rewrite":                 "use the rewrite or uri directive",
	"handle_response":         "use the intercept directive",
	"replace_status":          "use the intercept directive",
	"copy_response":           "use the intercept directive",
	"copy_response_headers":   "use the intercept directive",
}

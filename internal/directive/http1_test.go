package directive

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile" // the adapter
)

// matchersIn returns what a matcher of a Caddyfile adapts to.
func matchersIn(t *testing.T, matcher string) caddy.ModuleMap {
	t.Helper()
	input := []byte(":80 {\n@m {\n" + matcher + "\n}\nrespond @m ok\n}\n")
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(input, nil)
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct{ Match []caddy.ModuleMap }
				}
			}
		}
	}
	if err := json.Unmarshal(config, &parsed); err != nil {
		t.Fatal(err)
	}
	return parsed.Apps.HTTP.Servers["srv0"].Routes[0].Match[0]
}

func TestMatchersThatKnowOnlyHTTP1(t *testing.T) {
	for matcher, want := range map[string]string{
		"header Connection *Upgrade*\nheader Upgrade websocket": "the field Connection",
		"header upgrade websocket":                              "the field Upgrade",
		"header !Upgrade":                                       "",
		"header Sec-WebSocket-Key *":                            "the field Sec-WebSocket-Key",
		"header_regexp up Upgrade (?i)^websocket$":              "the field Upgrade",
		"method GET":                 "the method GET",
		"method GET POST\npath /ws*": "the method GET or POST",
		"expression `header({'Upgrade': 'websocket'})`":             "the field Upgrade",
		"expression `header({\"Connection\": \"*Upgrade*\"})`":      "the field Connection",
		"expression `{http.request.header.Upgrade} == 'websocket'`": "the field Upgrade",
		"expression `{header.Connection}.contains('pgrade')`":       "the field Connection",

		"path /ws*":                               "",
		"path /upgrade\nheader Host *":            "",
		"method GET CONNECT":                      "",
		"header Sec-WebSocket-Version 13":         "",
		"header Upgrade-Insecure-Requests 1":      "",
		"not header Upgrade h2c":                  "",
		"expression `header({'X-Upgrade': '1'})`": "",
		"expression `path('/upgrade')`":           "",
	} {
		if got := OnlyInHTTP1(matchersIn(t, matcher)); got != want {
			t.Errorf("%s asks for %q, want %q", strings.ReplaceAll(matcher, "\n", "; "), got, want)
		}
	}
	for _, matchers := range []caddy.ModuleMap{nil, {"websocket": []byte("{}")}} {
		if got := OnlyInHTTP1(matchers); got != "" {
			t.Errorf("%v asks for %q", matchers, got)
		}
	}
}

package websocketproxy

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

var site = regexp.MustCompile(`(?s)^:8080 \{\n(.*)\n\}\n$`)

// FuzzUnmarshalCaddyfile checks that the parser neither panics nor fails without
// a position, and that what it takes can be written as JSON.
func FuzzUnmarshalCaddyfile(f *testing.F) {
	for _, fixture := range readFixtures(f, fixtureFiles) {
		if match := site.FindStringSubmatch(fixture.caddyfile); match != nil {
			f.Add(strings.TrimSpace(match[1]))
		}
	}
	f.Fuzz(func(t *testing.T, input string) {
		tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
		if err != nil || len(tokens) == 0 {
			return
		}
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			expectPosition(t, input, err)
			return
		}
		if _, err := json.Marshal(h); err != nil {
			t.Errorf("writing what it adapts to: %v", err)
		}
	})
}

// expectPosition checks that an error is about a line that exists.
func expectPosition(t *testing.T, input string, err error) {
	t.Helper()
	match := position.FindStringSubmatch(err.Error())
	if match == nil {
		t.Fatalf("no position in: %v", err)
	}
	if line, _ := strconv.Atoi(match[1]); line < 1 || line > strings.Count(input, "\n")+1 {
		t.Errorf("there is no such line: %v", err)
	}
}

package websocketproxy

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	// For the directives that stand around ours in the fixtures.
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/encode"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/encode/gzip"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/encode/zstd"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/forwardauth"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/templates"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/tracing"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
	_ "github.com/caddyserver/caddy/v2/modules/metrics"
)

var updateFixtures = flag.Bool("update", false, "rewrite what testdata/*.caddyfiletest expect")

// A fixture file has one case or several, separated by nextCase. Each case is a
// Caddyfile and, after expecting, what it adapts to: JSON if it begins with a
// brace, else the text of the error.
const (
	fixtureFiles = "testdata/*.caddyfiletest"
	nextCase     = "\n==========\n"
	expecting    = "\n----------\n"
)

// fixture is one case of a fixture file.
type fixture struct {
	name            string
	caddyfile, want string
}

// isGood reports whether the Caddyfile has no mistake.
func (f *fixture) isGood() bool { return strings.HasPrefix(f.want, "{") }

// readFixtures returns the cases of all files, or of one.
func readFixtures(tb testing.TB, pattern string) []*fixture {
	tb.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		tb.Fatalf("no files %s: %v", pattern, err)
	}
	var fixtures []*fixture
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		for i, text := range strings.Split(string(content), nextCase) {
			input, want, _ := strings.Cut(text, expecting)
			fixtures = append(fixtures, &fixture{
				name:      fmt.Sprintf("%s/%d", filepath.Base(file), i+1),
				caddyfile: input + "\n",
				want:      strings.TrimSpace(want),
			})
		}
	}
	return fixtures
}

func TestCaddyfileAdapts(t *testing.T) {
	files, err := filepath.Glob(fixtureFiles)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", fixtureFiles, err)
	}
	for _, file := range files {
		fixtures := readFixtures(t, file)
		for _, f := range fixtures {
			t.Run(f.name, func(t *testing.T) { f.check(t) })
		}
		if *updateFixtures {
			var cases []string
			for _, f := range fixtures {
				cases = append(cases, strings.TrimSuffix(f.caddyfile, "\n")+expecting+f.want)
			}
			if err := os.WriteFile(file, []byte(strings.Join(cases, nextCase)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

var position = regexp.MustCompile(`\bCaddyfile:([0-9]+)`)

func (f *fixture) check(t *testing.T) {
	t.Helper()
	if formatted := string(caddyfile.Format([]byte(f.caddyfile))); formatted != f.caddyfile {
		t.Errorf("the Caddyfile is not formatted:\n%s", difference(formatted, f.caddyfile))
	}
	adapted, warnings, err := adapt(f.caddyfile)
	for _, w := range warnings {
		t.Errorf("warning: %v", w)
	}
	var got string
	switch {
	case err != nil:
		got = err.Error()
		if !position.MatchString(got) {
			t.Errorf("no position in: %s", got)
		}
	default:
		got = indented(t, adapted)
		expectProvisions(t, f, adapted)
	}
	if *updateFixtures {
		f.want = got
	}
	want := f.want
	if f.isGood() {
		want = indented(t, []byte(want))
	}
	if got != want {
		t.Errorf("the Caddyfile\n%s\nadapts to (+), not to (-):\n%s", f.caddyfile, difference(want, got))
	}
}

func adapt(input string) ([]byte, []caddyconfig.Warning, error) {
	return caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), map[string]any{"filename": "Caddyfile"})
}

// indented returns JSON in a form that can be compared line by line.
func indented(tb testing.TB, config []byte) string {
	tb.Helper()
	var parsed any
	if err := json.Unmarshal(config, &parsed); err != nil {
		tb.Fatalf("parsing %s: %v", config, err)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "\t")
	if err := enc.Encode(parsed); err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(buf.String())
}

// difference marks the lines between the common head and the common tail.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var head, tail []string
	for len(w) > 0 && len(g) > 0 && w[0] == g[0] {
		head, w, g = append(head, "  "+w[0]), w[1:], g[1:]
	}
	for len(w) > 0 && len(g) > 0 && w[len(w)-1] == g[len(g)-1] {
		tail = append([]string{"  " + w[len(w)-1]}, tail...)
		w, g = w[:len(w)-1], g[:len(g)-1]
	}
	lines := head
	for _, line := range w {
		lines = append(lines, "- "+line)
	}
	for _, line := range g {
		lines = append(lines, "+ "+line)
	}
	return strings.Join(append(lines, tail...), "\n")
}

// needsMore are the fixtures that cannot be provisioned without something that
// the tests do not have.
var needsMore = regexp.MustCompile(`"(pem_files|root_ca_pem_files|client_certificate_(file|automate))"`)

// expectProvisions loads the handlers of a configuration as Caddy would.
func expectProvisions(t *testing.T, f *fixture, config []byte) {
	t.Helper()
	if needsMore.Match(config) {
		return
	}
	for _, raw := range handlersIn(t, config) {
		ctx, cancel := newContext()
		_, err := ctx.LoadModuleByID("http.handlers.websocket_proxy", raw)
		cancel()
		if err != nil {
			t.Errorf("provisioning what the Caddyfile\n%s\nadapts to: %v", f.caddyfile, err)
		}
	}
	expectNothingHeld(t)
}

// handlersIn returns the configurations of our handlers in one of Caddy.
func handlersIn(tb testing.TB, config []byte) []json.RawMessage {
	tb.Helper()
	var parsed any
	if err := json.Unmarshal(config, &parsed); err != nil {
		tb.Fatalf("parsing %s: %v", config, err)
	}
	var found []json.RawMessage
	var search func(any)
	search = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, element := range v {
				search(element)
			}
		case map[string]any:
			if v["handler"] == "websocket_proxy" {
				delete(v, "handler")
				raw, err := json.Marshal(v)
				if err != nil {
					tb.Fatal(err)
				}
				found = append(found, raw)
			}
			for _, element := range v {
				search(element)
			}
		}
	}
	search(parsed)
	return found
}

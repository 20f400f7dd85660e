package websocketproxy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// fenced matches a fenced block of a Markdown file: its language and text.
var fenced = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

func readFile(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func TestCaddyfilesInDocumentationAdaptWithoutWarnings(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		matches, err := filepath.Glob(pattern)
		if err != nil || len(matches) == 0 {
			t.Fatalf("%d files are %s, %v", len(matches), pattern, err)
		}
		files = append(files, matches...)
	}
	found := 0
	for _, file := range files {
		for _, block := range fenced.FindAllStringSubmatch(readFile(t, file), -1) {
			if block[1] == "caddyfile" {
				found++
				expectAdapts(t, file, block[2])
			}
		}
	}
	if found == 0 {
		t.Error("no Caddyfile in any Markdown file")
	}
}

func TestExamplesAdaptWithoutWarnings(t *testing.T) {
	files, err := filepath.Glob("examples/*.Caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		text := readFile(t, file)
		expectAdapts(t, file, text)
		if !strings.HasPrefix(text, "# ") || strings.Count(text, "\n# ") != 1 {
			t.Errorf("%s does not begin with two lines of comment", file)
		}
	}
}

func expectAdapts(t *testing.T, file, text string) {
	t.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": file})
	if err != nil || len(warnings) > 0 {
		t.Errorf("in %s: %v %v\n%s", file, err, warnings, text)
		return
	}
	expectProvisions(t, &fixture{caddyfile: text}, config)
}

func TestReadmeLinksToEveryExample(t *testing.T) {
	readme := readFile(t, "README.md")
	files, err := filepath.Glob("examples/*.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !strings.Contains(readme, "]("+file+")") {
			t.Errorf("README.md has no link to %s", file)
		}
	}
}

func TestDocumentationHasTheSyntaxOfTheDirective(t *testing.T) {
	// The syntax is in the doc comment, indented as code.
	source := readFile(t, "caddyfile.go")
	var syntax []string
	for line := range strings.Lines(source) {
		code, isComment := strings.CutPrefix(line, "//\t")
		switch {
		case isComment:
			syntax = append(syntax, code)
		case strings.TrimSpace(line) == "//" && len(syntax) > 0:
			syntax = append(syntax, "\n")
		}
		if strings.HasPrefix(line, "func (h *Handler) UnmarshalCaddyfile") {
			break
		}
	}
	want := strings.TrimSpace(strings.Join(syntax, ""))
	if !strings.HasPrefix(want, "websocket_proxy [<matcher>]") {
		t.Fatalf("no syntax found in caddyfile.go, only:\n%s", want)
	}
	if !strings.Contains(readFile(t, configurationFile), "```\n"+want+"\n```") {
		t.Errorf("%s does not have this syntax:\n%s", configurationFile, want)
	}
}

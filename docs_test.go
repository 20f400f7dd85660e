package websocketproxy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

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

// anchorOf is what GitHub makes of a heading.
func anchorOf(heading string) string {
	kept := strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
	return strings.ReplaceAll(kept, " ", "-")
}

func TestLinksInDocumentationLeadSomewhere(t *testing.T) {
	anchors := make(map[string]map[string]bool)
	var files []string
	for _, pattern := range []string{"*.md", "docs/*.md", "bench/*.md"} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, matches...)
	}
	texts := make(map[string]string)
	for _, file := range files {
		text := fenced.ReplaceAllString(readFile(t, file), "")
		texts[file], anchors[file] = text, make(map[string]bool)
		for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
			anchors[file][anchorOf(heading[1])] = true
		}
	}
	for file, text := range texts {
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(link[1], "#")
			if strings.Contains(target, ":") {
				continue // elsewhere
			}
			to := file
			if target != "" {
				to = filepath.Join(filepath.Dir(file), target)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s has a link to %s: %v", file, link[1], err)
			} else if anchor != "" && !anchors[filepath.ToSlash(to)][anchor] {
				t.Errorf("%s has a link to %s, where no heading is called so", file, link[1])
			}
		}
	}
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

func TestMigrationHasTheOptionsThatAreRefused(t *testing.T) {
	text := readFile(t, "docs/migration.md")
	for _, refused := range []map[string]string{refusedOptions, refusedInTransport} {
		for option := range refused {
			if !strings.Contains(text, "`"+option+"`") {
				t.Errorf("docs/migration.md does not have %s", option)
			}
		}
	}
}

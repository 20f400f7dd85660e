package websocketproxy

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const configurationFile = "docs/configuration.md"

// optionSection is what docs/configuration.md says about an option.
type optionSection struct {
	text, syntax       string
	json, deflt, shown string // the lines about these; shown is the example's
}

var (
	codeSpan    = regexp.MustCompile("`([^`]+)`")
	jsonPath    = regexp.MustCompile("`([a-z_]+(?:\\[\\])?(?:\\.[a-z_]+)*)`")
	sectionHead = regexp.MustCompile(`(?m)^### ([a-z_]+)\n`)
)

// optionSections returns the sections of the document by their options.
func optionSections(tb testing.TB) map[string]optionSection {
	tb.Helper()
	sections := make(map[string]optionSection)
	text := readFile(tb, configurationFile)
	heads := sectionHead.FindAllStringSubmatchIndex(text, -1)
	for _, head := range heads {
		option, body := text[head[2]:head[3]], text[head[1]:]
		if end := regexp.MustCompile(`(?m)^##`).FindStringIndex(body); end != nil {
			body = body[:end[0]]
		}
		if _, twice := sections[option]; twice {
			tb.Errorf("%s has two sections", option)
		}
		section := optionSection{text: body}
		if block := fenced.FindStringSubmatch(body); block != nil {
			section.syntax = strings.TrimSuffix(block[2], "\n")
		}
		section.json, section.deflt, section.shown = item(body, "JSON"), item(body, "Default"), item(body, "Example")
		sections[option] = section
	}
	return sections
}

// item returns what a list says about one thing, in one line.
func item(text, about string) string {
	_, rest, _ := strings.Cut(text, "- **"+about+"**:")
	lines := strings.Split(rest, "\n")
	said := lines[:1]
	for _, line := range lines[1:] {
		if !strings.HasPrefix(line, "  ") {
			break
		}
		said = append(said, strings.TrimSpace(line))
	}
	return strings.TrimSpace(strings.Join(said, " "))
}

func TestEveryOptionHasASection(t *testing.T) {
	sections := optionSections(t)
	if got, want := slices.Sorted(maps.Keys(sections)), implementedOptions(t); !slices.Equal(got, want) {
		t.Errorf("%s has sections about %q, want %q", configurationFile, got, want)
	}
	syntax := make(map[string]bool)
	doc := methodOf(t, "caddyfile.go", "Handler", "UnmarshalCaddyfile").Doc.Text()
	for line := range strings.Lines(doc) {
		syntax[strings.Join(strings.Fields(line), " ")] = true
	}
	for option, section := range sections {
		if first, _, _ := strings.Cut(section.syntax, " "); first != option || !syntax[section.syntax] {
			t.Errorf("the syntax of %s is not that of the parser's comment: %s", option, section.syntax)
		}
		for _, about := range []string{"JSON", "Default", "Change it when", "Example", "See also"} {
			if !strings.Contains(section.text, "- **"+about+"**") {
				t.Errorf("%s has nothing about %s", option, about)
			}
		}
	}
}

func TestReadmeLinksToEveryOption(t *testing.T) {
	readme := readFile(t, "README.md")
	for _, option := range implementedOptions(t) {
		if !strings.Contains(readme, "]("+configurationFile+"#"+option+")") {
			t.Errorf("README.md has no link to the section about %s", option)
		}
	}
	const most = 200
	if lines := strings.Count(readme, "\n"); lines > most {
		t.Errorf("README.md has %d lines, more than %d", lines, most)
	}
}

// Examples that are no whole Caddyfiles are options, each in a code span.
func TestExamplesOfOptionsAdapt(t *testing.T) {
	for option, section := range optionSections(t) {
		if strings.Contains(section.text, "```caddyfile\n") {
			if !regexp.MustCompile(`(?m)^\s+` + option + `\b`).MatchString(strings.ReplaceAll(section.text, section.syntax, "")) {
				t.Errorf("the example of %s does not have it", option)
			}
			continue // TestCaddyfilesInDocumentationAdaptWithoutWarnings has it
		}
		var lines []string
		for _, span := range codeSpan.FindAllStringSubmatch(section.shown, -1) {
			lines = append(lines, "\t\t"+span[1]+"\n")
		}
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.Fields(line)[0] == option }) {
			t.Errorf("the example of %s does not have it: %s", option, section.shown)
			continue
		}
		expectAdapts(t, configurationFile, "example.com {\n\twebsocket_proxy localhost:9000 {\n"+strings.Join(lines, "")+"\t}\n}\n")
	}
}

// indirect is what a type points to, or itself.
func indirect(typ reflect.Type) reflect.Type {
	if typ.Kind() == reflect.Pointer {
		return typ.Elem()
	}
	return typ
}

// fieldsByPath returns the fields of the configuration by their paths in JSON, with
// their documentation.
func fieldsByPath(tb testing.TB) map[string]string {
	tb.Helper()
	docs := make(map[string]string)
	var visit func(typ reflect.Type, prefix string)
	visit = func(typ reflect.Type, prefix string) {
		documented := fieldDocs(tb, typ)
		for name, f := range jsonFields(typ) {
			switch of := f.Type; {
			case of.Kind() == reflect.Slice && slices.Contains(configTypes(), indirect(of.Elem())):
				visit(of.Elem().Elem(), prefix+name+"[].")
			case of.Kind() == reflect.Pointer && slices.Contains(configTypes(), of.Elem()):
				visit(of.Elem(), prefix+name+".")
			default:
				docs[prefix+name] = documented[f.Name]
			}
		}
	}
	visit(reflect.TypeFor[Handler](), "")
	return docs
}

func TestEveryFieldIsInASection(t *testing.T) {
	fields, sections := fieldsByPath(t), optionSections(t)
	described := make(map[string][]string)
	for option, section := range sections {
		paths := jsonPath.FindAllStringSubmatch(section.json, -1)
		if _, ok := fields[paths[0][1]]; !ok {
			t.Errorf("%s is %s in JSON, which does not exist", option, paths[0][1])
		}
		for _, path := range paths {
			if _, ok := fields[path[1]]; ok {
				described[path[1]] = append(described[path[1]], option)
			} else if strings.ContainsAny(path[1], ".[") {
				t.Errorf("%s is %s in JSON, which does not exist", option, path[1])
			}
		}
	}
	for path := range fields {
		if len(described[path]) == 0 {
			t.Errorf("no section has %s", path)
			continue
		}
		for set := strings.ReplaceAll(path, "[]", ""); set != ""; set = parentOf(set) {
			if option, ok := syntax.OptionOf(set); ok {
				if !slices.Contains(described[path], option) {
					t.Errorf("%s is in the sections about %q, and not in that about %s", path, described[path], option)
				}
				break
			}
		}
	}
}

func TestSectionsHaveTheDefaults(t *testing.T) {
	fields := fieldsByPath(t)
	compared := 0
	for option, section := range optionSections(t) {
		said := strings.ReplaceAll(section.deflt, "`", "")
		for _, path := range jsonPath.FindAllStringSubmatch(section.json, -1) {
			want := inCaddyfile(path[1], fields[path[1]])
			if want == "" {
				continue
			}
			compared++
			if !regexp.MustCompile(`(^|[ ;:])` + regexp.QuoteMeta(want) + `($|[ ;:,])`).MatchString(said) {
				t.Errorf("the default of %s, which is %s, is not in that of %s: %s", path[1], want, option, said)
			}
		}
	}
	if compared < 40 {
		t.Errorf("only %d defaults compared", compared)
	}
}

// inCaddyfile returns the default in a field's documentation as a Caddyfile has it. It
// is empty if there is none, or only what another field says.
func inCaddyfile(path, doc string) string {
	said := strings.TrimSuffix(strings.TrimPrefix(defaultSentence.FindString(doc), "Default: "), ".")
	special := map[string]string{
		"timeouts.lifetime_jitter":           "10%",
		"health_checks.active.max_size":      "1MiB",
		"health_checks.active.expect_status": "2xx",
	}
	switch {
	case special[path] != "":
		return special[path]
	case said == "false", said == "no limit", strings.HasPrefix(said, "0, "):
		return "off"
	case strings.HasPrefix(said, "`"):
		return ""
	}
	return said
}

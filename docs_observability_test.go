package websocketproxy

import (
	"go/ast"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// fieldsOf returns the words in the literals of a function, and of those among functions that it calls.
func fieldsOf(functions map[string]*ast.FuncDecl, name string) (words []string) {
	f := functions[name]
	delete(functions, name)
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if s, ok := text(n); ok && isWord(s) {
				words = append(words, s)
			}
		case *ast.CallExpr:
			if called, ok := n.Fun.(*ast.Ident); ok && functions[called.Name] != nil {
				words = append(words, fieldsOf(functions, called.Name)...)
			}
		}
		return true
	})
	return words
}

func TestEveryFieldOfTheLineIsExplained(t *testing.T) {
	functions := make(map[string]*ast.FuncDecl)
	for _, file := range goSources(t) {
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && file.Name.Name == "logline" {
				functions[f.Name.Name] = f
			}
		}
	}
	if functions["Closed"] == nil {
		t.Fatal("the function that writes the line was not found")
	}
	written := fieldsOf(functions, "Closed")
	_, below, _ := strings.Cut(readFile(t, troubleshootingFile), "\n### The line\n")
	below, _, _ = strings.Cut(below, "\n##")
	var explained []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|").FindAllStringSubmatch(below, -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			explained = append(explained, strings.Trim(name, "`"))
		}
	}
	slices.Sort(written)
	slices.Sort(explained)
	if written = slices.Compact(written); !slices.Equal(written, explained) || len(written) < 12 {
		t.Errorf("%s explains the fields %q, the code writes %q", troubleshootingFile, explained, written)
	}
}

// TestEveryMetricIsExplained compares the table with what the collector describes, and with the types of what it
// shows.
func TestEveryMetricIsExplained(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| `(caddy_websocket_proxy_\\w+)` \\| (\\w+) \\|([^|]*)\\|").
		FindAllStringSubmatch(readFile(t, "docs/observability.md"), -1)
	explained, types := make(map[string]string), make(map[string]string)
	for _, row := range rows {
		explained[row[1]] = strings.ReplaceAll(strings.TrimSpace(row[3]), ", ", ",")
		types[row[1]] = strings.ToUpper(row[2])
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		process.metrics.Describe(descs)
		close(descs)
	}()
	described := make(map[string]string)
	for desc := range descs {
		parts := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`).FindStringSubmatch(desc.String())
		if parts == nil {
			t.Fatalf("what is %v?", desc)
		}
		described[parts[1]] = parts[2]
	}
	if !maps.Equal(explained, described) || len(described) < 30 {
		t.Errorf("the documentation has these metrics and labels:\n%v\nand the code:\n%v", explained, described)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(process.metrics)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if got := family.GetType().String(); types[family.GetName()] != got {
			t.Errorf("%s is a %s, and the documentation says %s", family.GetName(), got, types[family.GetName()])
		}
	}
}

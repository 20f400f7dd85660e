package websocketproxy

import (
	"go/ast"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const observabilityFile = "docs/observability.md"

// fieldsOf returns the words in the literals of a function, and of those that it calls, if they are about the lines
// of a tunnel.
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
			if called, ok := n.Fun.(*ast.Ident); ok && functions[called.Name] != nil && strings.HasSuffix(called.Name, "Fields") {
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
			if f, ok := decl.(*ast.FuncDecl); ok && file.Name.Name == "websocketproxy" {
				functions[f.Name.Name] = f
			}
		}
	}
	if functions["tunnelClosed"] == nil {
		t.Fatal("the function that writes the line was not found")
	}
	written := fieldsOf(functions, "tunnelClosed")
	_, below, _ := strings.Cut(readFile(t, troubleshootingFile), "\n### The line\n")
	below, _, _ = strings.Cut(below, "\n##")
	var explained []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|").FindAllStringSubmatch(below, -1) {
		for _, name := range strings.Split(row[1], ", ") {
			explained = append(explained, strings.Trim(name, "`"))
		}
	}
	slices.Sort(written)
	slices.Sort(explained)
	if written = slices.Compact(written); !slices.Equal(written, explained) || len(written) < 12 {
		t.Errorf("%s explains the fields %q, the code writes %q", troubleshootingFile, explained, written)
	}
}

package websocketproxy

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const troubleshootingFile = "docs/troubleshooting.md"

// parseSources parses the code that is not for tests, wherever it is below the root.
var parseSources = sync.OnceValues(func() (files []*ast.File, err error) {
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && path != "." && !strings.HasPrefix(filepath.ToSlash(path), "internal"), name == "testbed":
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := goparser.ParseFile(token.NewFileSet(), path, nil, goparser.ParseComments|goparser.SkipObjectResolution)
		files = append(files, file)
		return err
	})
	return files, err
})

func goSources(tb testing.TB) []*ast.File {
	tb.Helper()
	files, err := parseSources()
	if err != nil || len(files) < 30 {
		tb.Fatalf("%d files of source, %v", len(files), err)
	}
	return files
}

// isWord reports whether a string may be a word for users, and not a name of Go's.
var isWord = regexp.MustCompile(`^[a-z_]+$`).MatchString

// constantsOf returns the values of the constants of a type of this name, sorted.
func constantsOf(tb testing.TB, typ string) []string {
	tb.Helper()
	var values []string
	for _, file := range goSources(tb) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			of, ok := spec.Type.(*ast.Ident)
			if other, isOfOther := spec.Type.(*ast.SelectorExpr); isOfOther {
				of, ok = other.Sel, true
			}
			if !ok || !strings.EqualFold(of.Name, typ) {
				return true
			}
			for _, value := range spec.Values {
				if s, ok := text(value); ok && isWord(s) {
					values = append(values, s)
				}
			}
			return true
		})
	}
	slices.Sort(values)
	return slices.Compact(values)
}

// text returns what a string literal, or the first one of several that are put
// together, says.
func text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		first, ok := text(e.X)
		rest, _ := text(e.Y)
		return first + rest, ok
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	}
	return "", false
}

// firstCells returns the code in the first cells of the rows below a heading.
func firstCells(tb testing.TB, heading string) []string {
	tb.Helper()
	return firstCellsOf(tb, troubleshootingFile, heading)
}

func firstCellsOf(tb testing.TB, file, heading string) []string {
	tb.Helper()
	_, below, found := strings.Cut(readFile(tb, file), "\n## "+heading+"\n")
	if !found {
		tb.Fatalf("%s has no heading %s", file, heading)
	}
	below, _, _ = strings.Cut(below, "\n##")
	var cells []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(below, -1) {
		cells = append(cells, row[1])
	}
	return cells
}

func TestEveryCauseAndReasonIsExplained(t *testing.T) {
	for typ, heading := range map[string]string{"cause": "Causes", "reason": "Reasons"} {
		got, want := firstCells(t, heading), constantsOf(t, typ)
		slices.Sort(got)
		if !slices.Equal(got, want) || len(want) < 20 {
			t.Errorf("%s explains the %ss %q, the code has %q", troubleshootingFile, typ, got, want)
		}
	}
}

func TestEveryLogLineIsExplained(t *testing.T) {
	explained := firstCells(t, "Other log lines")
	literals := make(map[string]bool)
	lines := make(map[string]bool)
	constants := make(map[string]string)
	files := goSources(t)
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if i < len(n.Values) {
						constants[name.Name], _ = text(n.Values[i])
					}
				}
			case *ast.BinaryExpr, *ast.BasicLit:
				if s, ok := text(n.(ast.Expr)); ok {
					literals[s] = true
				}
			}
			return true
		})
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if s := messageOf(call, constants); s != "" {
					lines[s] = true
				}
			}
			return true
		})
	}
	for line := range lines {
		if !slices.ContainsFunc(explained, func(s string) bool { return strings.HasPrefix(line, s) }) {
			t.Errorf("%s does not explain the line %q", troubleshootingFile, line)
		}
	}
	for _, line := range explained {
		isThere := false
		for s := range literals {
			isThere = isThere || strings.HasPrefix(s, line)
		}
		if !isThere {
			t.Errorf("%s explains a line that the code does not write: %s", troubleshootingFile, line)
		}
	}
	if len(lines) < 20 {
		t.Errorf("found only %d lines in the code", len(lines))
	}
}

// messageOf returns the message of a call of one of zap's methods, if it is one.
func messageOf(call *ast.CallExpr, constants map[string]string) string {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	at := 0
	switch method.Sel.Name {
	case "Debug", "Info", "Warn", "Error":
	case "Check", "Log":
		at = 1
	default:
		return ""
	}
	if len(call.Args) <= at {
		return ""
	}
	if name, ok := call.Args[at].(*ast.Ident); ok {
		return constants[name.Name]
	}
	message, _ := text(call.Args[at])
	return message
}

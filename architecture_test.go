package websocketproxy

import (
	goparser "go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/seed-58ac1b1a/caddy-websocket-proxy"

// graph says what each package below internal/ may know: other ones of these, and of
// the world outside of the standard library's harmless part.
var graph = map[string][]string{
	"admin":     {"cluster", "evict", "expiry", "frame", "printable", "tunnel", "upstream", "net/http"},
	"balance":   {},
	"cli":       {"admin", "demo", "expiry", "frame", "handshake", "printable", "upstream", "net/http", "caddy", "cobra", "humanize", "zap"},
	"cluster":   {"outside", "printable", "upstream"},
	"conn":      {"relay", "net/http", "quic", "x/sys"},
	"dashboard": {"admin", "frame", "metrics", "printable", "tunnel", "upstream", "net/http", "caddy", "zap"},
	"demo":      {"net/http", "websocket"},
	"dial":      {"conn", "handshake", "relay", "net/http"},
	"directive": {"net/http", "caddy", "humanize"},
	"discovery": {"outside", "upstream"},
	"events":    {"printable", "tunnel", "caddy", "zap"},
	"evict":     {"balance", "sticky", "tunnel", "upstream"},
	"expiry":    {"frame", "caddy", "x/sys"},
	"farewell":  {"conn", "frame", "handshake", "net/http"},
	"forward":   {"conn", "handshake", "net/http"},
	"frame":     {},
	"guest":     {"discovery", "upstream", "net/http", "caddy"},
	"handshake": {"net/http", "x/net"},
	"health":    {"dial", "frame", "handshake", "printable", "relay", "upstream", "net/http"},
	"label":     {},
	"limit":     {},
	"logline":   {"printable", "tunnel", "zap"},
	"metrics":   {"tunnel", "upstream", "prometheus"},
	"orca":      {"protobuf"},
	"outside":   {},
	"printable": {},
	"relay":     {"x/sys"},
	"renew":     {"expiry", "label", "net/http", "caddy", "zap"},
	"server":    {"conn", "tunnel", "net/http", "quic", "x/net", "caddy", "zap"},
	"settings":  {"directive", "guest", "handshake", "health", "printable", "sticky", "told", "upstream", "net/http", "x/net", "caddy"},
	"sticky":    {"directive", "upstream", "net/http", "x/net", "caddy", "xxhash"},
	"testbed":   {"net/http", "x/net"},
	"told":      {"net/http", "directive", "events", "health", "orca", "printable", "upstream", "caddy", "zap"},
	"trace":     {"printable", "net/http", "otel"},
	"tunnel":    {"frame", "printable", "relay", "trace", "quic"},
	"upstream":  {"balance", "limit"},
}

// outsiders are the names that graph has for what is not of this module.
var outsiders = map[string]string{
	"github.com/caddyserver/caddy/v2": "caddy",
	"github.com/cespare/xxhash/v2":    "xxhash",
	"github.com/coder/websocket":      "websocket",
	"github.com/dustin/go-humanize":   "humanize",
	"github.com/prometheus":           "prometheus",
	"github.com/quic-go/quic-go":      "quic",
	"github.com/spf13/cobra":          "cobra",
	"go.opentelemetry.io":             "otel",
	"go.uber.org/zap":                 "zap",
	"golang.org/x/net":                "x/net",
	"golang.org/x/sys":                "x/sys",
	"google.golang.org/protobuf":      "protobuf",
	"net/http":                        "net/http",
}

// knows is the name that graph has for an import, or nothing if everybody may have it.
func knows(path string) string {
	if own, ok := strings.CutPrefix(path, modulePath+"/internal/"); ok {
		return own
	}
	for prefix, name := range outsiders {
		if path == prefix || strings.HasPrefix(path, prefix+"/") {
			return name
		}
	}
	if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
		return path
	}
	return ""
}

func TestImportsPointDown(t *testing.T) {
	dirs, err := os.ReadDir("internal")
	if err != nil {
		t.Fatal(err)
	}
	overview := readFile(t, "ARCHITECTURE.md")
	for _, dir := range dirs {
		may, known := graph[dir.Name()]
		if !known {
			t.Errorf("internal/%s is not in the graph", dir.Name())
		}
		if !strings.Contains(overview, dir.Name()) {
			t.Errorf("ARCHITECTURE.md does not name internal/%s", dir.Name())
		}
		for _, path := range importsOf(t, filepath.Join("internal", dir.Name())) {
			if name := knows(path); name != "" && !slices.Contains(may, name) {
				t.Errorf("internal/%s imports %s, which it must not know", dir.Name(), path)
			}
		}
	}
	if lines := strings.Count(overview, "\n"); lines > 200 {
		t.Errorf("ARCHITECTURE.md has %d lines, want 200 at most", lines)
	}
}

// Importing http2 switches something on for the whole process, so nobody has it unasked;
// and what it imports decides when it is initialized.
func TestHTTP2IsByChoice(t *testing.T) {
	const path = modulePath + "/http2"
	if slices.Contains(importsOf(t, "."), path) {
		t.Errorf("the module imports %s", path) // packages below internal/ must not, by their graph
	}
	if !slices.Contains(importsOf(t, "cmd/caddy"), path) {
		t.Errorf("cmd/caddy does not import %s", path)
	}
	if got := importsOf(t, "http2"); !slices.Equal(got, []string{"os"}) {
		t.Errorf("%s imports %q, want os only", path, got)
	}
}

// importsOf returns what the files of a package import, but for its tests.
func importsOf(tb testing.TB, dir string) (paths []string) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("%s has no files: %v", dir, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := goparser.ParseFile(token.NewFileSet(), file, nil, goparser.ImportsOnly)
		if err != nil {
			tb.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				tb.Fatal(err)
			}
			paths = append(paths, path)
		}
	}
	return paths
}

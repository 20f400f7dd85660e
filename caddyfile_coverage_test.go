package websocketproxy

import (
	"encoding/json"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/label"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/told"
)

func TestEveryFieldIsInAFixture(t *testing.T) {
	seen := make(map[string]bool)
	for _, f := range readFixtures(t, fixtureFiles) {
		if !f.isGood() {
			continue
		}
		for _, raw := range handlersIn(t, []byte(f.want)) {
			noteFields(t, reflect.TypeFor[Handler](), raw, seen)
		}
	}
	for _, config := range configTypes() {
		for name := range jsonFields(config) {
			if key := config.Name() + "." + name; !seen[key] {
				t.Errorf("no fixture has %s", key)
			}
		}
	}
}

// configTypes are the types of this package that the configuration consists of.
func configTypes() []reflect.Type {
	return []reflect.Type{
		reflect.TypeFor[Handler](), reflect.TypeFor[Upstream](), reflect.TypeFor[LoadBalancing](), reflect.TypeFor[Rebalance](),
		reflect.TypeFor[Queue](), reflect.TypeFor[HealthChecks](), reflect.TypeFor[PassiveHealthChecks](),
		reflect.TypeFor[Timeouts](), reflect.TypeFor[Keepalive](), reflect.TypeFor[Limits](),
		reflect.TypeFor[Drain](), reflect.TypeFor[Access](), reflect.TypeFor[label.Label](), reflect.TypeFor[expiry.Rule](),
		reflect.TypeFor[HealthChecks](), reflect.TypeFor[ActiveHealthChecks](),
		reflect.TypeFor[settings.HandshakeRate](), reflect.TypeFor[told.Agent](), reflect.TypeFor[told.LoadReport](),
	}
}

// jsonFields returns the exported fields of a struct by their JSON names.
func jsonFields(config reflect.Type) map[string]reflect.StructField {
	fields := make(map[string]reflect.StructField)
	for f := range config.Fields() {
		if f.IsExported() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields[name] = f
		}
	}
	return fields
}

// noteFields adds the fields of our types that occur in the JSON of a value.
func noteFields(tb testing.TB, typ reflect.Type, raw json.RawMessage, seen map[string]bool) {
	tb.Helper()
	switch {
	case typ.Kind() == reflect.Pointer:
		noteFields(tb, typ.Elem(), raw, seen)
	case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Pointer:
		var elements []json.RawMessage
		mustParse(tb, raw, &elements)
		for _, element := range elements {
			noteFields(tb, typ.Elem(), element, seen)
		}
	case typ.Kind() == reflect.Struct && slices.Contains(configTypes(), typ):
		var members map[string]json.RawMessage
		mustParse(tb, raw, &members)
		fields := jsonFields(typ)
		for name, member := range members {
			seen[typ.Name()+"."+name] = true
			if f, ok := fields[name]; ok {
				noteFields(tb, f.Type, member, seen)
			}
		}
	}
}

func mustParse(tb testing.TB, raw json.RawMessage, into any) {
	tb.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		tb.Fatalf("parsing %s: %v", raw, err)
	}
}

func TestEveryOptionIsDocumentedAndInAFixture(t *testing.T) {
	documented := documentedOptions(t)
	if got, want := documented, implementedOptions(t); !slices.Equal(got, want) {
		t.Errorf("the syntax comment has the options %q, the parser has %q", got, want)
	}
	var good strings.Builder
	for _, f := range readFixtures(t, fixtureFiles) {
		if f.isGood() {
			good.WriteString(f.caddyfile)
		}
	}
	for _, option := range documented {
		if !regexp.MustCompile(`(?m)^\t\t` + option + `\b`).MatchString(good.String()) {
			t.Errorf("no fixture without a mistake has %s", option)
		}
	}
}

// documentedOptions returns the options in the syntax comment, sorted.
func documentedOptions(tb testing.TB) []string {
	tb.Helper()
	var options []string
	syntax := methodOf(tb, "caddyfile.go", "Handler", "UnmarshalCaddyfile").Doc.Text()
	for _, match := range regexp.MustCompile(`(?m)^\t\t([a-z_]+)`).FindAllStringSubmatch(syntax, -1) {
		options = append(options, match[1])
	}
	slices.Sort(options)
	return options
}

// implementedOptions returns those of the parser's table, sorted.
func implementedOptions(testing.TB) []string {
	return slices.Sorted(maps.Keys(options))
}

// methodOf returns the declaration of a method.
func methodOf(tb testing.TB, file, receiver, name string) *ast.FuncDecl {
	tb.Helper()
	parsed, err := goparser.ParseFile(token.NewFileSet(), file, nil, goparser.ParseComments|goparser.SkipObjectResolution)
	if err != nil {
		tb.Fatal(err)
	}
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Name.Name != name || f.Recv == nil {
			continue
		}
		if star, ok := f.Recv.List[0].Type.(*ast.StarExpr); ok {
			if ident, ok := star.X.(*ast.Ident); ok && ident.Name == receiver {
				return f
			}
		}
	}
	tb.Fatalf("%s has no method %s.%s", file, receiver, name)
	return nil
}

func unquoted(tb testing.TB, e ast.Expr) string {
	tb.Helper()
	literal, ok := e.(*ast.BasicLit)
	if !ok {
		tb.Fatalf("%T is no literal", e)
	}
	s, err := strconv.Unquote(literal.Value)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestEveryOptionOfReverseProxyIsTakenOrRefusedWithAHint(t *testing.T) {
	theirs := optionsOfCaddy(t, (*reverseproxy.Handler).UnmarshalCaddyfile, "Handler")
	ours := implementedOptions(t)
	for _, option := range theirs {
		_, refused := refusedOptions[option]
		if slices.Contains(ours, option) == refused {
			t.Errorf("%s of reverse_proxy is neither taken nor refused, or both", option)
		}
	}
	// These are directives inside of its handle_response.
	theirs = append(theirs, "copy_response", "copy_response_headers")
	for option, hint := range refusedOptions {
		if !slices.Contains(theirs, option) {
			t.Errorf("%s is refused, but reverse_proxy has no such option", option)
		}
		if _, _, err := adapt(":80 {\n\twebsocket_proxy localhost {\n\t\t" + option + "\n\t}\n}\n"); err == nil ||
			!strings.Contains(err.Error(), hint) || !strings.Contains(err.Error(), "Caddyfile:3") {
			t.Errorf("%s is refused with %v, want a hint: %s", option, err, hint)
		}
	}
}

func TestRefusedTransportOptionsExist(t *testing.T) {
	theirs := optionsOfCaddy(t, (*reverseproxy.HTTPTransport).UnmarshalCaddyfile, "HTTPTransport")
	for _, option := range slices.Sorted(maps.Keys(refusedInTransport)) {
		if !slices.Contains(theirs, option) {
			t.Errorf("%s is refused, but the HTTP transport has no such option", option)
		}
	}
}

// optionsOfCaddy returns the options that a parser in Caddy knows, which is
// what its source compares with.
func optionsOfCaddy(tb testing.TB, method any, receiver string) []string {
	tb.Helper()
	pc := reflect.ValueOf(method).Pointer()
	file, _ := runtime.FuncForPC(pc).FileLine(pc)
	if _, err := os.Stat(file); err != nil {
		tb.Skipf("the source of Caddy is not at hand: %v", err)
	}
	var options []string
	ast.Inspect(methodOf(tb, file, receiver, "UnmarshalCaddyfile").Body, func(n ast.Node) bool {
		s, ok := n.(*ast.SwitchStmt)
		if !ok || !isCall(s.Tag, "d", "Val") {
			return true
		}
		for _, clause := range s.Body.List {
			if c, ok := clause.(*ast.CaseClause); ok {
				for _, e := range c.List {
					options = append(options, unquoted(tb, e))
				}
			}
		}
		return true
	})
	if len(options) < 20 {
		tb.Fatalf("found only the options %q in %s", options, file)
	}
	return options
}

// isCall reports whether e is a call of x.method without arguments.
func isCall(e ast.Expr, x, method string) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	ident, ok := sel.X.(*ast.Ident)
	return ok && ident.Name == x && sel.Sel.Name == method
}

package guest

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// RequestPlaceholders returns the placeholders in the strings of a configuration
// that nothing but a request can give a value, sorted and each once.
func RequestPlaceholders(config any) []string {
	var found []string
	repl := caddy.NewEmptyReplacer()
	repl.Map(func(name string) (any, bool) {
		if !isGlobalPlaceholder(name) {
			found = append(found, name)
		}
		return "", true
	})
	var search func(any)
	search = func(v any) {
		switch v := v.(type) {
		case string:
			repl.ReplaceAll(v, "")
		case []any:
			for _, element := range v {
				search(element)
			}
		case map[string]any:
			for _, element := range v {
				search(element)
			}
		}
	}
	search(config)
	slices.Sort(found)
	return slices.Compact(found)
}

// isGlobalPlaceholder reports whether a placeholder has a value without a
// request. No file is read for that.
func isGlobalPlaceholder(name string) bool {
	if strings.HasPrefix(name, "file.") {
		return true
	}
	_, known := caddy.NewReplacer().Get(name)
	return known
}

package websocketproxy

import (
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// guestMistakes are those of mistakes that only a module of somebody else can find,
// once it is loaded.
var guestMistakes = []string{
	"unknown policy", "policy without a name",
	"unknown transport", "transport without a name", "transport versions", "transport h2c", "transport proxy",
	"transport proxy, the old way", "transport read_timeout", "transport write_timeout", "transport max_conns_per_host",
}

func TestMistakesAreFoundBeforeAnythingIsLoaded(t *testing.T) {
	for name, mistake := range mistakes {
		h := new(Handler)
		if err := json.Unmarshal([]byte(mistake.config), h); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err := h.checkConfig()
		if isGuests := slices.Contains(guestMistakes, name); isGuests != (err == nil) {
			t.Errorf("%s: found %v; is it a mistake of another module: %v", name, err, isGuests)
		}
	}
}

func TestEveryFieldHasAnOption(t *testing.T) {
	notHere := []string{"headers"} // its options are looked at one by one
	for _, path := range pathsOf(reflect.TypeFor[Handler](), "") {
		found := slices.Contains(notHere, path)
		for set := path; set != ""; set = parentOf(set) {
			_, ok := syntax.OptionOf(set)
			found = found || ok
		}
		if !found {
			t.Errorf("no option sets %s", path)
		}
	}
}

// parentOf returns the path in JSON that is one step up.
func parentOf(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '.'))]
}

// pathsOf returns the paths of what a type of the configuration consists of.
func pathsOf(typ reflect.Type, prefix string) []string {
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if !slices.Contains(configTypes(), typ) {
		return []string{strings.TrimSuffix(prefix, ".")}
	}
	var paths []string
	for name, f := range jsonFields(typ) {
		paths = append(paths, pathsOf(f.Type, prefix+name+".")...)
	}
	return paths
}

// Names that only JSON has say nothing to who reads the error about a Caddyfile.
func TestErrorsOfCaddyfilesHaveNoNamesOfJSON(t *testing.T) {
	options := implementedOptions(t)
	var foreign []string
	for _, path := range pathsOf(reflect.TypeFor[Handler](), "") {
		name := path[strings.LastIndexByte(path, '.')+1:]
		if strings.Contains(name, "_") && !slices.Contains(options, name) {
			foreign = append(foreign, name)
		}
	}
	for _, f := range readFixtures(t, fixtureFiles) {
		if f.isGood() {
			continue
		}
		for _, name := range foreign {
			if regexp.MustCompile(`\b` + name + `\b`).MatchString(f.want) {
				t.Errorf("%s: the error speaks of %s:\n%s", f.name, name, f.want)
			}
		}
	}
}

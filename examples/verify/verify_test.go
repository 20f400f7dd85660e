package verify

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

// root is the repository.
const root = "../.."

func read(tb testing.TB, file string) []byte {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// decode reads YAML that may have no field that v does not have, and none twice.
func decode(tb testing.TB, text []byte, v any) {
	tb.Helper()
	if err := yaml.UnmarshalStrict(text, v); err != nil {
		tb.Fatalf("%v in\n%s", err, text)
	}
}

// find returns the first group of a pattern in a file.
func find(tb testing.TB, file, pattern string) string {
	tb.Helper()
	found := regexp.MustCompile(pattern).FindSubmatch(read(tb, file))
	if found == nil {
		tb.Fatalf("%s does not have %s", file, pattern)
	}
	return string(found[1])
}

// directories returns where files with a name are, as paths below the
// repository that begin with a slash.
func directories(tb testing.TB, name string) (all []string) {
	tb.Helper()
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "node_modules", "testdata"}, d.Name()):
			return fs.SkipDir
		case d.Name() == name:
			all = append(all, filepath.ToSlash(filepath.Join("/", filepath.Dir(path))))
		}
		return nil
	})
	if err != nil || len(all) == 0 {
		tb.Fatalf("%d files are called %s, %v", len(all), name, err)
	}
	return all
}

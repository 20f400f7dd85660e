package websocketproxy

import (
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
)

// exampleFiles are the paths of the files below examples/, without the module
// that verifies them.
func exampleFiles(tb testing.TB) (files []string) {
	tb.Helper()
	err := fs.WalkDir(os.DirFS("examples"), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name == "verify":
			return fs.SkipDir
		case !d.IsDir():
			files = append(files, name)
		}
		return nil
	})
	if err != nil || len(files) == 0 {
		tb.Fatalf("%d examples, %v", len(files), err)
	}
	return files
}

func TestExamplesAreListed(t *testing.T) {
	list := readFile(t, "examples/README.md")
	for _, file := range exampleFiles(t) {
		if file != "README.md" && !strings.Contains(list, "| ["+file+"]("+file+") |") {
			t.Errorf("examples/README.md has no line for %s", file)
		}
	}
}

// TestCaddyfilesOfContainersAdaptWithoutWarnings has those that stand beside the
// files that run them.
func TestCaddyfilesOfContainersAdaptWithoutWarnings(t *testing.T) {
	found := 0
	for _, file := range exampleFiles(t) {
		if path.Base(file) == "Caddyfile" {
			found++
			expectAdapts(t, file, readFile(t, "examples/"+file))
		}
	}
	if found == 0 {
		t.Error("there is none")
	}
}

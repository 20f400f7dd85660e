package verify

import (
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
)

func TestWorkflows(t *testing.T) {
	lint, err := actionlint.NewLinter(io.Discard, new(actionlint.LinterOptions))
	if err != nil {
		t.Fatal(err)
	}
	const folder = ".github/workflows"
	for _, file := range files(t, folder) {
		problems, err := lint.Lint(path.Join(folder, file), read(t, path.Join(folder, file)), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range problems {
			t.Errorf("%v", problem)
		}
	}
	if !strings.Contains(string(read(t, folder+"/ci.yml")), "- run: bash .ci/run\n") {
		t.Error("no step runs .ci/run")
	}
}

func files(tb testing.TB, folder string) (names []string) {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Join(root, folder))
	if err != nil || len(entries) == 0 {
		tb.Fatalf("%s has %d files, %v", folder, len(entries), err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// TestDependencyUpdates checks that nothing with dependencies is forgotten.
func TestDependencyUpdates(t *testing.T) {
	var config struct {
		Version int `json:"version"`
		Updates []struct {
			Ecosystem   string   `json:"package-ecosystem"`
			Directory   string   `json:"directory"`
			Directories []string `json:"directories"`
			Schedule    struct {
				Interval string `json:"interval"`
			} `json:"schedule"`
			Groups map[string]struct {
				Patterns []string `json:"patterns"`
			} `json:"groups"`
		} `json:"updates"`
	}
	decode(t, read(t, ".github/dependabot.yml"), &config)
	if config.Version != 2 {
		t.Errorf("the version is %d, want 2", config.Version)
	}
	got := make(map[string][]string)
	for _, u := range config.Updates {
		if (u.Directory == "") == (len(u.Directories) == 0) || u.Schedule.Interval == "" {
			t.Errorf("%s has no schedule, or not one of directory and directories", u.Ecosystem)
		}
		if u.Directory != "" {
			u.Directories = append(u.Directories, u.Directory)
		}
		got[u.Ecosystem] = append(got[u.Ecosystem], u.Directories...)
	}
	for ecosystem, want := range map[string][]string{
		"gomod": directories(t, "go.mod"), "npm": directories(t, "package.json"),
		"docker": directories(t, "Dockerfile"), "github-actions": {"/"},
	} {
		slices.Sort(got[ecosystem])
		slices.Sort(want)
		if !slices.Equal(got[ecosystem], want) {
			t.Errorf("%s is looked for in %q, want %q", ecosystem, got[ecosystem], want)
		}
	}
}

// form is an issue form.
type form struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Labels      []string `json:"labels"`
	Body        []struct {
		Type       string `json:"type"`
		ID         string `json:"id"`
		Attributes struct {
			Label       string `json:"label"`
			Description string `json:"description"`
			Render      string `json:"render"`
		} `json:"attributes"`
		Validations struct {
			Required bool `json:"required"`
		} `json:"validations"`
	} `json:"body"`
}

func TestIssueForms(t *testing.T) {
	const folder = ".github/ISSUE_TEMPLATE"
	for _, file := range files(t, folder) {
		if file == "config.yml" {
			continue
		}
		var f form
		decode(t, read(t, path.Join(folder, file)), &f)
		if f.Name == "" || f.Description == "" || len(f.Body) == 0 {
			t.Errorf("%s lacks something that it has to have", file)
		}
		ids := make(map[string]bool)
		for _, field := range f.Body {
			if field.Type != "textarea" || field.ID == "" || ids[field.ID] || field.Attributes.Label == "" {
				t.Errorf("%s has the field %+v", file, field)
			}
			ids[field.ID] = true
		}
	}

	var chooser struct {
		Blank bool `json:"blank_issues_enabled"`
		Links []struct {
			Name  string `json:"name"`
			URL   string `json:"url"`
			About string `json:"about"`
		} `json:"contact_links"`
	}
	decode(t, read(t, folder+"/config.yml"), &chooser)
	for _, link := range chooser.Links {
		if link.Name == "" || link.About == "" || !strings.HasPrefix(link.URL, "https://"+find(t, "go.mod", `(?m)^module (\S+)$`)+"/") {
			t.Errorf("a link is %+v", link)
		}
	}
}

// TestBugReportsAskForWhatOneNeeds has the words by which a report is begun.
func TestBugReportsAskForWhatOneNeeds(t *testing.T) {
	var f form
	decode(t, read(t, ".github/ISSUE_TEMPLATE/bug.yml"), &f)
	want := map[string][]string{
		"version":       {"caddy version", "caddy list-modules --versions | grep websocket"},
		"configuration": {"Caddyfile"},
		"log":           {"tunnel closed", "handshake refused"},
	}
	for _, field := range f.Body {
		for _, words := range want[field.ID] {
			if !field.Validations.Required || !strings.Contains(field.Attributes.Description, words) {
				t.Errorf("%s is not required, or does not say %q", field.ID, words)
			}
		}
		delete(want, field.ID)
	}
	if len(want) > 0 {
		t.Errorf("nothing asks for %v", want)
	}
}

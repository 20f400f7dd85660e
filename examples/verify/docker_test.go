package verify

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// TestDockerfile has every instruction parsed and linted, and compares the
// versions with those that the module is built with.
func TestDockerfile(t *testing.T) {
	parsed, err := parser.Parse(bytes.NewReader(read(t, "examples/docker/Dockerfile")))
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range parsed.Warnings {
		t.Errorf("line %v: %s", warning.Location, warning.Short)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, at []parser.Range) {
		t.Errorf("line %v: %s: %s", at, rule, message)
	}})
	stages, _, err := instructions.Parse(parsed.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) != 2 {
		t.Fatalf("there are %d stages, want 2", len(stages))
	}
	version := find(t, "go.mod", `caddyserver/caddy/v2 v(\S+)`)
	module := find(t, "go.mod", `(?m)^module (\S+)$`)
	if stages[0].BaseName != "caddy:"+version+"-builder" || stages[1].BaseName != "caddy:"+version {
		t.Errorf("the images are %s and %s; go.mod has Caddy %s", stages[0].BaseName, stages[1].BaseName, version)
	}
	run, ok := stages[0].Commands[0].(*instructions.RunCommand)
	want := "xcaddy build v" + version + " --with " + module + " --with " + module + "/http2"
	if !ok || strings.Join(run.CmdLine, " ") != want {
		t.Errorf("the first stage runs %v, want %s", stages[0].Commands[0], want)
	}
	copied, ok := stages[1].Commands[0].(*instructions.CopyCommand)
	if !ok || copied.From != stages[0].Name {
		t.Errorf("the second stage begins with %v, want a copy from %s", stages[1].Commands[0], stages[0].Name)
	}
}

func TestCompose(t *testing.T) {
	const folder = "examples/docker"
	file := types.ConfigFile{Filename: filepath.Join(root, folder, "compose.yaml"), Content: read(t, folder+"/compose.yaml")}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  filepath.Join(root, folder),
		ConfigFiles: []types.ConfigFile{file},
		Environment: types.Mapping{},
	}, func(o *loader.Options) { o.SetProjectName("example", true) })
	if err != nil {
		t.Fatal(err)
	}
	caddy := project.Services["caddy"]
	stop := time.Duration(*caddy.StopGracePeriod)
	if need := stopTimes(t, folder+"/Caddyfile"); stop <= need {
		t.Errorf("stop_grace_period is %v, and a stop takes %v", stop, need)
	}
	mounted := slices.ContainsFunc(caddy.Volumes, func(v types.ServiceVolumeConfig) bool {
		return v.Target == "/etc/caddy/Caddyfile" && filepath.Base(v.Source) == "Caddyfile"
	})
	if !mounted {
		t.Error("the Caddyfile is not where Caddy's image looks for it")
	}
	if source := find(t, folder+"/Caddyfile", `dynamic a (\S+)`); project.Services[source].Image == "" {
		t.Errorf("the Caddyfile looks for upstreams at %q, which is no service", source)
	}
}

// stopTimes is how long a Caddyfile lets a stop take.
func stopTimes(tb testing.TB, caddyfile string) (sum time.Duration) {
	tb.Helper()
	for _, option := range []string{"grace_period", "shutdown_period"} {
		d, err := time.ParseDuration(find(tb, caddyfile, `\b`+option+` (\S+)`))
		if err != nil {
			tb.Fatal(err)
		}
		sum += d
	}
	return sum
}

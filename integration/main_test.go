package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

const (
	// timeout is how long a single step of a test may take.
	timeout = 30 * time.Second
	// buildTimeout is how long building Caddy may take, with nothing in the
	// build cache.
	buildTimeout = 15 * time.Minute
)

// built is the Caddy under test, built by the first test that needs it.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func TestMain(m *testing.M) {
	// Most of the time is waited, but not with the race detector or many of everything.
	_ = flag.Set("test.parallel", strconv.Itoa(amount(5, 10)))
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// amount is how much of something a test takes: many if LONG is set, as in
// continuous integration, or few.
func amount(many, few int) int {
	if os.Getenv("LONG") != "" {
		return many
	}
	return few
}

func caddyBinary(tb testing.TB) string {
	tb.Helper()
	built.once.Do(func() { built.path, built.err = buildCaddy() })
	if built.err != nil {
		tb.Fatal(built.err)
	}
	return built.path
}

func buildCaddy() (string, error) {
	if path := os.Getenv("INTEGRATION_CADDY"); path != "" {
		return filepath.Abs(path)
	}
	if err := touchSources(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "integration")
	if err != nil {
		return "", err
	}
	built.dir = dir
	path := filepath.Join(dir, "caddy")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	args := []string{"build", "-o", path}
	if os.Getenv("INTEGRATION_RACE") == "1" {
		args = append(args, "-race")
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", append(args, "../cmd/caddy")...).CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("building caddy: %w", err), errors.New(string(out)))
	}
	return path, nil
}

// touchSources looks at the files that the binary is made of. The go command
// sees that, and so does not take the results of an older binary from its cache.
func touchSources() error {
	for _, pattern := range []string{"../go.mod", "../*.go", "../http2/*.go", "../internal/*/*.go", "../cmd/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			if _, err := os.Stat(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// eventually waits until ok returns true. Where there is something to wait on,
// tests wait on that instead.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(timeout)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", timeout, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// within fails the test if c gets nothing in time.
func within[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(timeout):
		tb.Fatalf("not within %v: %s", timeout, what)
		panic("unreachable")
	}
}

// timeLimit returns a context for one step.
func timeLimit(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	tb.Cleanup(cancel)
	return ctx
}

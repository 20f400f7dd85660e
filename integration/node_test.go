package integration

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// needNode skips the test where there is no Node with these packages and ws. In
// CI they have to be there.
func needNode(tb testing.TB, packages ...string) (modules string) {
	tb.Helper()
	testbed.Program(tb, "node")
	dir := os.Getenv("NODE_WS_DIR")
	if dir == "" {
		dir = "node"
	}
	modules, err := filepath.Abs(filepath.Join(dir, "node_modules"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range append(packages, "ws") {
		if _, err := os.Stat(filepath.Join(modules, name)); err != nil {
			testbed.Missing(tb, "the packages for Node are not installed; run `npm ci` in integration/node: %v", err)
		}
	}
	return modules
}

// runNode runs one of the programs in node/ until the test ends, and gives its
// output to read.
func runNode(tb testing.TB, read func(*bufio.Scanner), args ...string) {
	tb.Helper()
	cmd := nodeCommand(tb, nil, args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting Node: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		read(bufio.NewScanner(stdout))
		_ = cmd.Wait() // killed below
	}()
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if tb.Failed() && stderr.Len() > 0 {
			tb.Logf("%v said:\n%s", args, stderr.String())
		}
	})
}

// node runs one of the programs in node/ to its end, which has to be good.
func node(tb testing.TB, env []string, args ...string) {
	tb.Helper()
	cmd := nodeCommand(tb, env, args...)
	timer := time.AfterFunc(2*timeout, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("Node: %v:\n%s", err, out)
	}
}

func nodeCommand(tb testing.TB, env []string, args ...string) *exec.Cmd {
	tb.Helper()
	modules := needNode(tb)
	args[0] = filepath.Join("node", args[0])
	cmd := exec.Command("node", args...)
	cmd.Env = append(append(os.Environ(), "NODE_PATH="+modules), env...)
	return cmd
}

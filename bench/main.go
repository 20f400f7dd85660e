// Command bench compares websocket_proxy with other proxies. It starts fresh
// processes of each on the loopback interface, puts the same load on them in
// turn, reads from /proc what that cost them, and prints one Markdown table.
// README.md tells what the rows mean.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == backendMode {
		exitOn(runBackends(context.Background()))
		return
	}
	if runtime.GOOS != "linux" {
		exitOn(errors.New("costs are read from /proc, which only Linux has"))
	}
	o, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	exitOn(err)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = compare(ctx, o)
	stop()
	exitOn(err)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// compare measures everything and prints the table.
func compare(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what remains is in a temporary folder
	// Servers that give up root must reach their folders in here.
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		return err
	}
	if o.caddy == "" {
		if o.caddy, err = buildCaddy(ctx, o.root, dir); err != nil {
			return err
		}
	}
	r, err := newRunner(o, dir)
	if err != nil {
		return err
	}
	defer r.backends.stop()
	if o.profiles != "" {
		return r.profileAll(ctx, o.profiles)
	}
	failures := r.runAll(ctx)
	if err := publish(r.report(), os.Stdout, o.out); err != nil {
		return err
	}
	return failures
}

// buildCaddy builds the module's caddy into dir.
func buildCaddy(ctx context.Context, root, dir string) (string, error) {
	fmt.Fprintln(os.Stderr, "building caddy")
	binary := filepath.Join(dir, "caddy")
	//nolint:gosec // the output's name is our own
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/caddy")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("building caddy: %w", err)
	}
	return binary, nil
}

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
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case backendMode:
			exitOn(runBackends(context.Background(), os.Args[2]))
			return
		case floorMode:
			exitOn(runFloor(context.Background(), os.Args[2]))
			return
		}
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
		if o.caddy, err = buildCaddy(ctx, o.root, filepath.Join(dir, "caddy"), "./cmd/caddy"); err != nil {
			return err
		}
	}
	if o.wantsFloor() {
		o.floor, err = buildCaddy(ctx, o.root, filepath.Join(dir, "floor"), "bench/floor_caddy.go", "bench/floor_tunnel.go")
		if err != nil {
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

// buildCaddy builds a caddy from a package, or files, of the module in root.
func buildCaddy(ctx context.Context, root, binary string, source ...string) (string, error) {
	fmt.Fprintln(os.Stderr, "building", filepath.Base(binary))
	//nolint:gosec // names are our own
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", binary}, source...)...)
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("building %s: %w", filepath.Base(binary), err)
	}
	return binary, nil
}

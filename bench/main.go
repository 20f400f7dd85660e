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
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	caddy, root, out string
	self, quick      bool
	runs             int
	rowFilter        *regexp.Regexp
	peerFilter       *regexp.Regexp
	frames           []int
	scale            scale
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == backendMode {
		exitOn(runBackends(context.Background()))
		return
	}
	if runtime.GOOS != "linux" {
		exitOn(errors.New("costs are read from /proc, which only Linux has"))
	}
	o, err := parseFlags()
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

func parseFlags() (options, error) {
	var o options
	var rows, peers, frames string
	var bulkMiB int64
	flag.StringVar(&o.caddy, "caddy", "", "caddy `binary` with the module; built from -root if empty")
	flag.StringVar(&o.root, "root", "..", "`folder` of the module's source")
	flag.StringVar(&o.out, "out", "", "`file` to append the table to")
	flag.IntVar(&o.runs, "runs", 3, "repetitions, whose medians are printed")
	flag.StringVar(&rows, "rows", ".", "`regexp` of the rows to measure")
	flag.StringVar(&peers, "peers", ".", "`regexp` of the peers to compare with")
	flag.StringVar(&frames, "frames", "65536", "frame sizes of the bulk rows in bytes, separated by commas")
	flag.Int64Var(&bulkMiB, "bulk-mib", 2048, "MiB that a bulk measurement moves")
	flag.IntVar(&o.scale.bulkTunnels, "bulk-tunnels", 4, "tunnels that a bulk measurement uses")
	flag.IntVar(&o.scale.tunnels, "tunnels", 3000, "idle tunnels, at most 9500")
	flag.DurationVar(&o.scale.settle, "settle", 6*time.Second, "wait before reading memory")
	flag.BoolVar(&o.self, "self", false, "compare reverse_proxy with itself, to see the noise")
	flag.BoolVar(&o.quick, "quick", false, "one small run: whether it works, not how well")
	flag.Parse()

	o.scale.bulkBytes = bulkMiB << 20
	o.scale.echoes, o.scale.echoTime = 100_000, 3*time.Second
	o.scale.connects = 2000
	o.scale.latencyTime = 5 * time.Second
	if o.quick {
		o.runs = 1
		o.scale = quickScale
	}
	var err error
	if o.rowFilter, err = regexp.Compile(rows); err != nil {
		return o, fmt.Errorf("parsing -rows: %w", err)
	}
	if o.peerFilter, err = regexp.Compile(peers); err != nil {
		return o, fmt.Errorf("parsing -peers: %w", err)
	}
	if o.frames, err = parseSizes(frames); err != nil {
		return o, fmt.Errorf("parsing -frames: %w", err)
	}
	return o, o.check()
}

// quickScale is small enough for a smoke test.
var quickScale = scale{
	tunnels: 150, settle: 500 * time.Millisecond,
	echoes: 5000, echoTime: 500 * time.Millisecond,
	bulkBytes: 64 << 20, bulkTunnels: 2,
	connects: 100, latencyTime: time.Second,
}

func (o options) check() error {
	const maxTunnels = 9500 // a proxy needs two descriptors for each, and may have 20,000
	switch s := o.scale; {
	case flag.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case o.runs < 1:
		return errors.New("-runs must be at least 1")
	case s.tunnels < 3 || s.tunnels > maxTunnels:
		return fmt.Errorf("-tunnels must be between 3 and %d", maxTunnels)
	case s.bulkTunnels < 1 || s.bulkTunnels > 100:
		return errors.New("-bulk-tunnels must be between 1 and 100")
	}
	for _, size := range o.frames {
		if o.scale.bulkBytes/int64(o.scale.bulkTunnels) < int64(size) {
			return fmt.Errorf("-bulk-mib is too small for frames of %d bytes", size)
		}
	}
	return nil
}

func parseSizes(list string) ([]int, error) {
	var sizes []int
	for item := range strings.SplitSeq(list, ",") {
		size, err := strconv.Atoi(item)
		if err != nil {
			return nil, err
		}
		if size < 1 || size > maxFrame {
			return nil, fmt.Errorf("size %d is not between 1 and %d", size, maxFrame)
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
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
	failures := r.runAll(ctx)
	if err := r.report(os.Stdout, o.out); err != nil {
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

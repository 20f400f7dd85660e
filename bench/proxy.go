package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

const (
	// startLimit bounds how long a proxy may take until it serves.
	startLimit = 20 * time.Second
	// stopLimit is how long a proxy may take to end before it is killed.
	stopLimit = 5 * time.Second
	logFile   = "output.log"
)

// proxy is one running peer.
type proxy struct {
	name    string
	cmd     *exec.Cmd
	log     *os.File
	ended   chan struct{} // closed when the process has ended
	plain   target
	tls     target
	streams target // TLS with HTTP/2 and HTTP/3, as far as the peer has them
	admin   admin
	// upstreams are the addresses in its configuration.
	upstreams []string
	// again starts another process of the same peer.
	again func(context.Context) (*proxy, error)
}

// workshop is what every proxy of a run is started with.
type workshop struct {
	dir       string
	cert      *certificate
	upstreams []string
	started   int
}

// start starts a fresh process of p and waits until it serves WebSockets. Others on
// the machine may take one of its ports first: then it gets other ones.
func (w *workshop) start(ctx context.Context, p peer) (*proxy, error) {
	const attempts = 3
	run, err := w.startOnce(ctx, p)
	for i := 1; i < attempts && err != nil && ctx.Err() == nil; i++ {
		run, err = w.startOnce(ctx, p)
	}
	return run, err
}

func (w *workshop) startOnce(ctx context.Context, p peer) (*proxy, error) {
	dir, err := w.newFolder()
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(ctx, 4)
	if err != nil {
		return nil, fmt.Errorf("choosing ports: %w", err)
	}
	config, err := p.config(settings{
		Plain: ports[0], TLS: ports[1], Admin: ports[2], Streams: ports[3], Upstreams: w.upstreams, Dir: dir,
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, p.template), config, 0o600); err != nil {
		return nil, err
	}
	run, err := launch(p, dir)
	if err != nil {
		return nil, err
	}
	run.plain = target{addr: loopback(ports[0])}
	run.tls = target{addr: loopback(ports[1]), tls: w.cert.clientConfig()}
	run.streams = target{addr: loopback(ports[3]), tls: run.tls.tls}
	run.upstreams = w.upstreams
	run.again = func(ctx context.Context) (*proxy, error) { return w.start(ctx, p) }
	if p.hasAdmin {
		run.admin = admin(loopback(ports[2]))
	}
	if err := run.awaitReady(ctx); err != nil {
		err = fmt.Errorf("starting %s: %w%s", p.name, err, run.evidence(ctx))
		run.stop()
		return nil, err
	}
	return run, nil
}

// newFolder makes the folder that one process runs in.
func (w *workshop) newFolder() (string, error) {
	w.started++
	dir := filepath.Join(w.dir, fmt.Sprintf("peer-%d", w.started)) // names have blanks
	if err := os.Mkdir(dir, 0o755); err != nil {                   //nolint:gosec // servers that give up root must reach it
		return "", err
	}
	return dir, w.cert.write(dir)
}

// launch runs the command in dir, with an environment that holds no tuning but what
// makes Go offer WebSockets over HTTP/2.
func launch(p peer, dir string) (*proxy, error) {
	log, err := os.Create(filepath.Join(dir, logFile)) //nolint:gosec // in a folder of our own
	if err != nil {
		return nil, err
	}
	//nolint:gosec,noctx // from allPeers; stop ends it, with its children
	cmd := exec.Command(p.binary, p.args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "GODEBUG=http2xconnect=1"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		closeQuietly(log)
		return nil, fmt.Errorf("starting %s: %w", p.name, err)
	}
	run := &proxy{name: p.name, cmd: cmd, log: log, ended: make(chan struct{})}
	go run.wait()
	return run, nil
}

// wait reaps the process, which start's and stop's callers see in ended.
func (p *proxy) wait() {
	_ = p.cmd.Wait() // how it ended is in its output
	close(p.ended)
}

// awaitReady returns when an echo has passed through both ports.
func (p *proxy) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for _, t := range []target{p.plain, p.tls} {
		err := tryEcho(ctx, t)
		for err != nil {
			select {
			case <-p.ended:
				return errors.New("process ended")
			case <-ctx.Done():
				return fmt.Errorf("not ready in time: %w", err)
			case <-time.After(50 * time.Millisecond):
			}
			err = tryEcho(ctx, t)
		}
	}
	return nil
}

// tryEcho makes one short tunnel.
func tryEcho(ctx context.Context, t target) error {
	c, err := t.dial(ctx, echoPath, smallBuffer)
	if err != nil {
		return err
	}
	if err := c.echo(newMessage(1024)); err != nil {
		closeQuietly(c.conn)
		return err
	}
	return c.close()
}

// stop ends the process and waits for it. It may be called more than once.
func (p *proxy) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	timer := time.AfterFunc(stopLimit, p.kill)
	<-p.ended
	timer.Stop()
	closeQuietly(p.log)
}

// kill ends the process and its descendants at once.
func (p *proxy) kill() {
	stats, err := readStats()
	if err != nil {
		_ = p.cmd.Process.Kill() // at least the root
		return
	}
	for _, pid := range treeOf(p.cmd.Process.Pid, stats) {
		if process, err := os.FindProcess(pid); err == nil {
			_ = process.Kill() // fails only when it has ended
		}
	}
}

// evidence tells what may say why something failed: how the process has ended, if it has, at
// a Caddy why its tunnels have, and the end of what it has printed. It is empty if there is
// nothing, and bounded otherwise.
func (p *proxy) evidence(ctx context.Context) string {
	const patience = 5 * time.Second
	var b strings.Builder
	select {
	case <-p.ended:
		fmt.Fprintf(&b, "\n\tits process has ended: %v", p.cmd.ProcessState)
	default:
		// What has failed may be over for its time.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if closed := p.admin.closedTunnels(ctx); closed != "" {
			b.WriteString("\n\tits tunnels have ended so: " + closed)
		}
	}
	if output := p.output(); output != "" {
		b.WriteString("\n\tits output ends with: " + output)
	}
	return b.String()
}

// output returns the end of what the process has printed.
func (p *proxy) output() string {
	content, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	const enough = 2000
	content = bytes.TrimSpace(content)
	return string(content[max(0, len(content)-enough):])
}

// cpu returns the CPU time the process tree has used.
func (p *proxy) cpu() (time.Duration, error) { return cpuOf(p.cmd.Process.Pid) }

// usage returns what the process tree holds.
func (p *proxy) usage() (usage, error) { return usageOf(p.cmd.Process.Pid) }

// freePorts returns ports that nobody listens on right now.
func freePorts(ctx context.Context, n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		listener, err := listen(ctx)
		if err != nil {
			return nil, err
		}
		defer closeQuietly(listener) // only now, so that no port comes twice
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

// listen opens a listener on a free loopback port.
func listen(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", loopback(0))
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// render executes a template over s.
func render(text string, s settings) ([]byte, error) {
	functions := template.FuncMap{
		"join":  func(list []string) string { return strings.Join(list, " ") },
		"share": func(of int) int { return of / s.Proxies },
	}
	t, err := template.New("").Funcs(functions).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, s)
	return out.Bytes(), err
}

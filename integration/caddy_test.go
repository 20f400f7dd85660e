package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// caddy is a running Caddy process.
type caddy struct {
	// http, https and admin are its addresses, host:port. Caddyfiles name them
	// {$HTTP}, {$HTTPS} and {$ADMIN}.
	http, https, admin string
	// certs are the certificates of the https address: {$CERT} and {$KEY}.
	certs *testbed.Certs
	log   *logs

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
}

// startCaddy runs a Caddyfile until the test ends. env is added to the
// process's environment.
func startCaddy(tb testing.TB, caddyfile string, env ...string) *caddy {
	tb.Helper()
	c := prepareCaddy(tb)
	c.run(tb, caddyfile, env...)
	return c
}

func prepareCaddy(tb testing.TB) *caddy {
	tb.Helper()
	return &caddy{
		http:   testbed.FreeAddr(tb),
		https:  testbed.FreeAddr(tb),
		admin:  testbed.FreeAddr(tb),
		certs:  testbed.NewCerts(tb),
		log:    newLogs(),
		exited: make(chan struct{}),
	}
}

func (c *caddy) run(tb testing.TB, caddyfile string, env ...string) {
	tb.Helper()
	c.cmd = c.command(tb, caddyfile, "run", "--config", "-", "--adapter", "caddyfile")
	c.cmd.Env = append(c.cmd.Env, env...)
	c.cmd.Stderr = c.log
	c.cmd.WaitDelay = timeout
	if err := c.cmd.Start(); err != nil {
		tb.Fatalf("starting caddy: %v", err)
	}
	go func() {
		_ = c.cmd.Wait() // the exit code is in ProcessState
		close(c.exited)
	}()
	tb.Cleanup(func() {
		c.stop(tb)
		if complaint := c.log.complaint(); complaint != "" {
			tb.Errorf("caddy has complained: %s", complaint)
		}
		if tb.Failed() {
			tb.Logf("log of caddy:\n%s", c.log)
		}
	})
	eventually(tb, "caddy's admin endpoint answers", func() bool {
		select {
		case <-c.exited:
			tb.Fatalf("caddy has ended: %v", c.cmd.ProcessState)
		default:
		}
		status, _, err := c.adminRequest(tb, http.MethodGet, "/config/", "")
		return err == nil && status == http.StatusOK
	})
}

// command prepares a run of the binary with stdin as its standard input.
func (c *caddy) command(tb testing.TB, stdin string, args ...string) *exec.Cmd {
	tb.Helper()
	home := tb.TempDir()
	cmd := exec.Command(caddyBinary(tb), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(),
		"HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home, "AppData="+home,
		"GODEBUG=",
		"HTTP="+c.http, "HTTPS="+c.https, "ADMIN="+c.admin,
		"CERT="+c.certs.ServerCertFile, "KEY="+c.certs.ServerKeyFile)
	return cmd
}

// stop ends the process as systemd would, and less politely if that does not
// help.
func (c *caddy) stop(tb testing.TB) {
	tb.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-c.exited:
		return
	case <-time.After(timeout):
	}
	_ = c.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-c.exited:
	case <-time.After(timeout):
		_ = c.cmd.Process.Kill()
		<-c.exited
	}
	tb.Errorf("caddy did not stop within %v", timeout)
}

func (c *caddy) signal(tb testing.TB, s syscall.Signal) {
	tb.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		tb.Fatalf("sending %v: %v", s, err)
	}
}

// expectExit waits until the process has ended, with exit code 0.
func (c *caddy) expectExit(tb testing.TB) {
	tb.Helper()
	within(tb, "caddy has ended", c.exited)
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		tb.Errorf("caddy ended with code %d", code)
	}
}

// reload gives the process a new Caddyfile. Each replaces the admin endpoint, and
// a request that has reached the old one at its end gets no answer.
func (c *caddy) reload(tb testing.TB, caddyfile string) {
	tb.Helper()
	eventually(tb, "the admin endpoint answers", func() bool {
		status, body, err := c.adminRequest(tb, http.MethodPost, "/load", caddyfile)
		if err == nil && status != http.StatusOK {
			tb.Fatalf("reloading: status %d: %s", status, body)
		}
		return err == nil
	})
	c.awaitNewListeners(tb)
}

// awaitNewListeners returns when the listeners of the old configuration are
// closed. Caddy answers a reload a moment earlier, and a connection that waits in
// the queue of one of them is then reset.
func (c *caddy) awaitNewListeners(tb testing.TB) {
	tb.Helper()
	if runtime.GOOS != "linux" {
		return // as nothing tells
	}
	eventually(tb, "the old listeners are closed", func() bool {
		return countListeners(tb, c.http) <= 1 && countListeners(tb, c.https) <= 1
	})
}

// countListeners counts the sockets that listen at an IPv4 address.
func countListeners(tb testing.TB, addr string) int {
	tb.Helper()
	sockets, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		tb.Fatal(err)
	}
	local := netip.MustParseAddrPort(addr)
	ip := local.Addr().As4()
	const listens = "00000000:0000 0A" // no remote address, and the state
	line := fmt.Sprintf("%08X:%04X %s", binary.NativeEndian.Uint32(ip[:]), local.Port(), listens)
	return strings.Count(string(sockets), line)
}

// adminRequest does a request to the admin endpoint; a body is a Caddyfile.
func (c *caddy) adminRequest(tb testing.TB, method, path, body string) (status int, answer string, err error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.admin+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "text/caddyfile")
	}
	// The endpoint is replaced by a reload, so no connection is used twice.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(all), err
}

// get does a GET over HTTP/1.1 to the http address.
func (c *caddy) get(tb testing.TB, path string) (status int, body string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(timeLimit(tb), http.MethodGet, "http://"+c.http+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		tb.Fatalf("GET %s: %v", path, err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatalf("GET %s: %v", path, err)
	}
	return resp.StatusCode, string(all)
}

// dial connects to the http address, or to the https address if secure.
func (c *caddy) dial(tb testing.TB, secure bool) *testbed.Client {
	tb.Helper()
	if secure {
		return testbed.DialTLS(tb, c.https, c.certs.ClientConfig())
	}
	return testbed.Dial(tb, c.http)
}

// url is where a WebSocket of the site is.
func (c *caddy) url(scheme, path string) string {
	if scheme == "wss" {
		return "wss://" + c.https + path
	}
	return "ws://" + c.http + path
}

// site returns a Caddyfile with body as the site at the http and the https
// address. options are global options.
func site(body string, options ...string) string {
	return sites(body, body, options...)
}

// sites is site with one body for each of the addresses.
func sites(plain, secure string, options ...string) string {
	return fmt.Sprintf(`{
	admin {$ADMIN}
	persist_config off
	skip_install_trust
	auto_https disable_redirects
	default_bind 127.0.0.1
	%s
}
http://{$HTTP} {
	%s
}
https://{$HTTPS} {
	tls {$CERT} {$KEY}
	%s
}
`, strings.Join(options, "\n"), plain, secure)
}

// proxyTo is a websocket_proxy directive. The handshake's response tells the
// tunnel's id; see tunnelID.
func proxyTo(upstream string, options ...string) string {
	options = append(options, "header_down X-Tunnel {http.websocket_proxy.tunnel.id}")
	return "websocket_proxy " + upstream + " {\n" + strings.Join(options, "\n") + "\n}"
}

// tunnelID is the id of the tunnel that a handshake has made, as in its lines
// in the log.
func tunnelID(resp *http.Response) string {
	return resp.Header.Get("X-Tunnel")
}

// runCaddy runs a subcommand of the binary to its end.
func runCaddy(tb testing.TB, args ...string) (code int, stdout, stderr string) {
	tb.Helper()
	return prepareCaddy(tb).subcommand(tb, args...)
}

// subcommand runs a subcommand in another process with c's environment.
func (c *caddy) subcommand(tb testing.TB, args ...string) (code int, stdout, stderr string) {
	tb.Helper()
	cmd := c.command(tb, "", args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting caddy: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
			tb.Fatalf("running caddy: %v", err)
		}
	case <-time.After(timeout):
		_ = cmd.Process.Kill()
		<-ended //nolint:errcheck // it was killed
		tb.Fatalf("caddy %s did not end within %v", strings.Join(args, " "), timeout)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

package redis_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	client "github.com/redis/go-redis/v9"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/integration/redis"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

const (
	// timeout is how long a step may take.
	timeout = 30 * time.Second
	// holderVariable has this program, run again, hold a lock at a server.
	holderVariable = "REDIS_LOCK_HOLDER"
	lockName       = "websocket_proxy/upstreams.json"
)

var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	if address := os.Getenv(holderVariable); address != "" {
		holdLock(address)
	}
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// long is what a test takes if LONG is set, as in continuous integration, else short.
func long(long, short time.Duration) time.Duration {
	if os.Getenv("LONG") != "" {
		return long
	}
	return short
}

// eventually waits until ok returns true, and returns how long that took.
func eventually(tb testing.TB, what string, ok func() bool) time.Duration {
	tb.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > timeout {
			tb.Fatalf("not within %v: %s", timeout, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}

// process is a program that runs until the test ends.
type process struct {
	cmd    *exec.Cmd
	out    *output
	exited chan struct{}
}

// output is what a process has written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func start(tb testing.TB, cmd *exec.Cmd) *process {
	tb.Helper()
	p := &process{cmd: cmd, out: new(output), exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting %s: %v", cmd.Path, err)
	}
	go func() {
		_ = cmd.Wait() // the exit code is in ProcessState
		close(p.exited)
	}()
	tb.Cleanup(func() {
		p.signal(syscall.SIGCONT)
		p.end(tb, syscall.SIGTERM)
		if tb.Failed() {
			tb.Logf("%s has written:\n%s", filepath.Base(cmd.Path), p.out)
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) } // it may have ended

// end ends a process by a signal, and waits for it.
func (p *process) end(tb testing.TB, s syscall.Signal) {
	tb.Helper()
	p.signal(s)
	select {
	case <-p.exited:
	case <-time.After(timeout):
		p.signal(syscall.SIGKILL)
		<-p.exited
		tb.Errorf("%s did not end by %v", p.cmd.Path, s)
	}
}

// server is a Redis server that keeps nothing on disk.
type server struct {
	*process

	address string
	client  *client.Client
}

func startServer(tb testing.TB) *server {
	tb.Helper()
	testbed.Program(tb, "redis-server")
	s := &server{address: testbed.FreeAddr(tb)}
	s.client = client.NewClient(&client.Options{Addr: s.address})
	tb.Cleanup(func() { _ = s.client.Close() })
	s.start(tb)
	return s
}

// start starts it at its address, empty.
func (s *server) start(tb testing.TB) {
	tb.Helper()
	_, port, _ := net.SplitHostPort(s.address)
	s.process = start(tb, exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port,
		"--dir", tb.TempDir(), "--save", "", "--appendonly", "no"))
	eventually(tb, "the server answers", func() bool { return s.client.Ping(tb.Context()).Err() == nil })
}

// calls are how often commands were called, as INFO tells.
type calls map[string]int

func (s *server) calls(tb testing.TB) calls {
	tb.Helper()
	text, err := s.client.Info(tb.Context(), "commandstats").Result()
	if err != nil {
		tb.Fatal(err)
	}
	all := make(calls)
	for line := range strings.Lines(text) {
		name, stats, found := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		n, _, _ := strings.Cut(stats, ",")
		if count, err := strconv.Atoi(n); found && err == nil {
			all[name] = count
		}
	}
	return all
}

// since returns what was called after earlier calls, but for what the tests themselves
// and a connection that begins call.
func (c calls) since(earlier calls) calls {
	all := make(calls)
	for name, n := range c {
		if n > earlier[name] && name != "info" && name != "hello" && name != "ping" && !strings.HasPrefix(name, "client") {
			all[name] = n - earlier[name]
		}
	}
	return all
}

func (c calls) sum() (n int) {
	for _, called := range c {
		n += called
	}
	return n
}

// holdLock holds the lock of the states until the process is killed.
func holdLock(address string) {
	if err := redis.New(address).Lock(context.Background(), lockName); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("locked")
	select {}
}

// caddy is a Caddy with a storage at a server.
type caddy struct {
	*process

	http, admin string
}

// startCaddy starts a Caddy that proxies to an upstream, and below /other to others.
func startCaddy(tb testing.TB, s *server, up string, others ...string) *caddy {
	tb.Helper()
	built.once.Do(build)
	if built.err != nil {
		tb.Fatal(built.err)
	}
	c := &caddy{http: testbed.FreeAddr(tb), admin: testbed.FreeAddr(tb)}
	home := tb.TempDir()
	cmd := exec.Command(filepath.Join(built.dir, "caddy"), "run", "--config", "-", "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{
	admin %s
	persist_config off
	storage redis %s
}
http://%s {
	bind 127.0.0.1
	handle /other {
		websocket_proxy %s
	}
	websocket_proxy %s
}
`, c.admin, s.address, c.http, strings.Join(others, " "), up))
	c.process = start(tb, cmd)
	eventually(tb, "caddy answers", func() bool {
		select {
		case <-c.exited:
			tb.Fatalf("caddy has ended: %s", c.out)
		default:
		}
		// The admin endpoint is there first.
		conn, err := net.Dial("tcp", c.http)
		if err == nil {
			_ = conn.Close()
			_, err = c.states()
		}
		return err == nil
	})
	return c
}

func build() {
	if built.dir, built.err = os.MkdirTemp("", "redis"); built.err != nil {
		return
	}
	args := []string{"build", "-o", filepath.Join(built.dir, "caddy")}
	if os.Getenv("INTEGRATION_RACE") == "1" {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "./caddy")...).CombinedOutput(); err != nil {
		built.err = errors.Join(err, errors.New(string(out)))
	}
}

// request does a request to the admin API.
func (c *caddy) request(method, path, body string, answer any) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.admin+"/websocket_proxy/"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d, %w: %s", resp.StatusCode, err, text)
	}
	return json.Unmarshal(text, answer)
}

// states returns the states of upstreams, by address.
func (c *caddy) states() (map[string]string, error) {
	var list struct {
		Upstreams []struct{ Address, State string }
	}
	err := c.request(http.MethodGet, "upstreams", "", &list)
	all := make(map[string]string)
	for _, u := range list.Upstreams {
		all[u.Address] = u.State
	}
	return all, err
}

// is reports whether an upstream has a state.
func (c *caddy) is(address, state string) bool {
	all, err := c.states()
	return err == nil && all[address] == state
}

// set sets a state, and returns why it was not stored, if it was not.
func (c *caddy) set(tb testing.TB, address, state string) (problem string) {
	tb.Helper()
	var answer struct {
		State, Problem string
		Stored         bool
	}
	err := c.request(http.MethodPost, "upstreams/state", fmt.Sprintf(`{"address": %q, "state": %q, "by": "test"}`, address, state), &answer)
	if err != nil || answer.State != state || answer.Stored != (answer.Problem == "") {
		tb.Fatalf("setting %s to %s: %v, %+v", address, state, err, answer)
	}
	return answer.Problem
}

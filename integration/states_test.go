package integration

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// onStorage is a site whose storage is a folder.
func onStorage(dir, body string) string {
	return site(body, "storage file_system "+dir)
}

// sharedUpstream returns an upstream at an address that means the same on other
// machines.
func sharedUpstream(t *testing.T) *testbed.Upstream {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		prefix, err := netip.ParsePrefix(addr.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() {
			return testbed.NewUpstreamAt(t, prefix.Addr().String(), testbed.Echo)
		}
	}
	t.Skip("this machine has loopback addresses only, whose states are not shared")
	return nil
}

// state gives an upstream a state, and returns whether that was stored.
func (c *caddy) state(t *testing.T, address, state string) (stored bool, problem string) {
	t.Helper()
	period := ""
	if state == "evict" {
		period = `, "period": 1`
	}
	status, answer, err := c.adminRequest(t, http.MethodPost, "/websocket_proxy/upstreams/state",
		fmt.Sprintf(`{"address": %q, "state": %q, "by": "test"%s}`, address, state, period))
	var result struct {
		State, Problem string
		Stored         bool
	}
	if err != nil || status != http.StatusOK || json.Unmarshal([]byte(answer), &result) != nil || result.State != state {
		t.Fatalf("setting %s to %s: status %d, %v: %s", address, state, status, err, answer)
	}
	return result.Stored, result.Problem
}

// say gives an upstream a state that has to be stored.
func (c *caddy) say(t *testing.T, address, state string) {
	t.Helper()
	if stored, problem := c.state(t, address, state); !stored {
		t.Fatalf("%s is %s, but that was not stored: %s", address, state, problem)
	}
}

// upstreamState returns what an instance says of an upstream.
func (c *caddy) upstreamState(t *testing.T, address string) string {
	t.Helper()
	status, answer, err := c.adminRequest(t, http.MethodGet, "/websocket_proxy/upstreams", "")
	var list struct {
		Upstreams []struct{ Address, State string }
	}
	if err != nil || status != http.StatusOK || json.Unmarshal([]byte(answer), &list) != nil {
		t.Fatalf("listing upstreams: status %d, %v: %s", status, err, answer)
	}
	for _, up := range list.Upstreams {
		if up.Address == address {
			return up.State
		}
	}
	return "unknown"
}

func (c *caddy) waitState(t *testing.T, address, want string) {
	t.Helper()
	eventually(t, address+" is "+want, func() bool { return c.upstreamState(t, address) == want })
}

// expectNoUpstream does a handshake for which there has to be no upstream.
func (c *caddy) expectNoUpstream(tb testing.TB) {
	tb.Helper()
	client := c.dial(tb, false)
	client.Send(testbed.HandshakeRequest("/", client.Host))
	if resp := client.Response(); resp.StatusCode != http.StatusServiceUnavailable {
		tb.Errorf("a handshake is answered with %d, want 503", resp.StatusCode)
	}
	client.Close()
}

// open opens a tunnel.
func (c *caddy) open(t *testing.T) *testbed.Client {
	t.Helper()
	client := c.dial(t, false)
	client.Handshake("/")
	client.Echo("hello")
	return client
}

// TestStatesInACluster has two processes that share a storage.
func TestStatesInACluster(t *testing.T) {
	t.Parallel()
	up := sharedUpstream(t).Addr
	caddyfile := onStorage(t.TempDir(), proxyTo(up))
	a, b := startCaddy(t, caddyfile), startCaddy(t, caddyfile)
	stays := b.open(t)

	a.say(t, up, "drain")
	a.expectNoUpstream(t)
	b.waitState(t, up, "drain")
	b.expectNoUpstream(t)
	stays.Echo("still open")
	b.log.waitOne(t, message("upstream state changed", "upstream", up, "state", "drain", "by", "test",
		"cause", "set at another instance"))
	b.say(t, up, "maint")
	a.waitState(t, up, "maint")
	a.expectNoUpstream(t)
	stays.Echo("still open")

	b.say(t, up, "ready")
	a.waitState(t, up, "ready")
	goes := a.open(t)

	evicted := testbed.Go(t, func(tb testing.TB) {
		code, _, stderr := a.subcommand(tb, "websockets", "evict", up, "--period", "1s", "--address", a.admin)
		if code != 0 {
			tb.Errorf("caddy websockets evict: exit code %d: %s", code, stderr)
		}
	})
	goes.ExpectClose(1012)
	stays.ExpectClose(1012)
	evicted() // which waits for the tunnels of a
	for _, c := range []*caddy{a, b} {
		line := c.log.waitOne(t, message("tunnel closed", "reason", "evicted"))
		if by := line.str("evicted_by"); !strings.Contains(by, "@") {
			t.Errorf("the tunnel is evicted by %q, want a user and a machine", by)
		}
		c.expectNoUpstream(t)
	}
	a.say(t, up, "ready")
	b.waitState(t, up, "ready")
	last := b.open(t)
	last.CloseHandshake(1000)
	last.Close()
	for _, c := range []*caddy{a, b} {
		if lines := c.log.find(message("upstream state changed", "upstream", up)); len(lines) != 5 {
			t.Errorf("five changes have the lines %v", lines)
		}
	}
}

// TestStatesSurviveRestarts drains an upstream that is this machine's own, and
// one that is not, and starts the process again.
func TestStatesSurviveRestarts(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	const other = "backend.example.com:9000"
	dir, home := t.TempDir(), t.TempDir()
	env := []string{"HOME=" + home, "XDG_DATA_HOME=" + home, "AppData=" + home}
	caddyfile := onStorage(dir, proxyTo(up.Addr+" "+other))
	first := startCaddy(t, caddyfile, env...)
	first.say(t, up.Addr, "drain")
	first.say(t, other, "drain")
	first.stop(t)

	again := startCaddy(t, caddyfile, env...)
	again.expectNoUpstream(t)
	line := again.log.waitOne(t, message("upstream states found"))
	if states, _ := line["states"].([]any); len(states) != 2 {
		t.Errorf("the line has %v, want two states", line)
	}

	// Another machine shares what is not the first one's own.
	elsewhere := startCaddy(t, caddyfile)
	elsewhere.waitState(t, other, "drain")
	if got := elsewhere.upstreamState(t, up.Addr); got != "ready" {
		t.Errorf("%s is %s at another instance, want ready", up.Addr, got)
	}
}

func TestAStorageThatIsDeletedIsWrittenAgain(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	const other = "backend.example.com:9000"
	dir := filepath.Join(t.TempDir(), "storage")
	c := startCaddy(t, onStorage(dir, proxyTo(up.Addr+" "+other)))
	c.say(t, up.Addr, "drain")
	c.say(t, other, "drain")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both states are stored again", func() bool { return len(documents(t, dir)) == 2 })
	c.expectNoUpstream(t)
	if lines := c.log.find(message("upstream state changed", "state", "ready")); len(lines) > 0 {
		t.Errorf("the log has %v", lines)
	}
}

// TestAStorageThatFailsHoldsNothingUp has a file where a folder belongs.
func TestAStorageThatFailsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	dir := t.TempDir()
	obstacle := filepath.Join(dir, "websocket_proxy")
	if err := os.WriteFile(obstacle, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	caddyfile := onStorage(dir, proxyTo(up.Addr))
	c := startCaddy(t, caddyfile)
	fails := "the storage of upstream states fails; the last known states hold, and are stored when it works again"
	c.log.waitOne(t, message(fails))
	if stored, problem := c.state(t, up.Addr, "drain"); stored || !strings.Contains(problem, "upstreams.json") {
		t.Errorf("stored: %t, problem: %q", stored, problem)
	}
	c.expectNoUpstream(t)
	c.reload(t, onStorage(dir, proxyTo(up.Addr, "lb_retries 1")))
	c.expectNoUpstream(t)

	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the state is stored", func() bool { return len(documents(t, dir)) == 1 })
	c.say(t, up.Addr, "ready")
	client := c.open(t)
	client.CloseHandshake(1000)
	client.Close()
}

// TestValidatingLeavesTheStorageAlone provisions a configuration.
func TestValidatingLeavesTheStorageAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := write(t, onStorage(dir, proxyTo("backend.example.com:9000")))
	code, _, stderr := runCaddy(t, "validate", "--adapter", "caddyfile", "--config", file)
	if code != 0 {
		t.Fatalf("code %d: %s", code, stderr)
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), "websocket_proxy") {
			t.Errorf("%s was made", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// documents returns the documents of a storage that hold states.
func documents(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Base(path) == "upstreams.json" {
			found = append(found, path)
		}
		return nil // it may be written or deleted right now
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

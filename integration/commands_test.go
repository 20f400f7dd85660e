package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestListModules(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := runCaddy(t, "list-modules")
	if code != 0 {
		t.Fatalf("code %d: %s", code, stderr)
	}
	modules := strings.Fields(stdout)
	for _, id := range []string{"http.handlers.websocket_proxy", "http.matchers.websocket"} {
		if !slices.Contains(modules, id) {
			t.Errorf("%s is not among the modules", id)
		}
	}
}

// TestCheckingCommands has Caddy look at Caddyfiles without running them.
func TestCheckingCommands(t *testing.T) {
	t.Parallel()
	bad := map[string]string{ // directive: what the message says
		proxyTo("127.0.0.1:9000", "idle_timeout soon"):                      "idle_timeout is a duration",
		proxyTo("127.0.0.1:9000", "flush_interval -1"):                      "flush_interval is not an option of websocket_proxy",
		proxyTo("127.0.0.1:9000", "ping_pong"):                              "unrecognized option ping_pong",
		proxyTo("127.0.0.1:9000", "origins example.com/path"):               "is not an origin",
		"@ws websocket maybe\nrespond @ws no\n" + proxyTo("127.0.0.1:9000"): "wrong argument count",
	}
	for directive, want := range bad {
		for _, command := range []string{"adapt", "validate"} {
			code, stdout, stderr := runCaddy(t, command, "--adapter", "caddyfile", "--config", write(t, site(directive)))
			if code == 0 || !strings.Contains(stderr, want) {
				t.Errorf("%s: code %d, want a failure with %q; got %s%s", command, code, want, stdout, stderr)
			}
		}
	}

	// What only provisioning finds, as it needs a file.
	invalid := write(t, site(proxyTo("127.0.0.1:9000", "transport http {\ntls_trust_pool file nowhere.pem\n}")))
	if code, _, stderr := runCaddy(t, "adapt", "--adapter", "caddyfile", "--config", invalid); code != 0 {
		t.Errorf("adapt: code %d: %s", code, stderr)
	}
	code, _, stderr := runCaddy(t, "validate", "--adapter", "caddyfile", "--config", invalid)
	if code == 0 || !strings.Contains(stderr, "nowhere.pem") {
		t.Errorf("validate: code %d, want a failure; got %s", code, stderr)
	}

	good := write(t, site(proxyTo("127.0.0.1:9000 127.0.0.1:9001")))
	code, stdout, stderr := runCaddy(t, "adapt", "--adapter", "caddyfile", "--config", good)
	if code != 0 || !strings.Contains(stdout, `"handler":"websocket_proxy"`) {
		t.Errorf("adapt: code %d: %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = runCaddy(t, "validate", "--adapter", "caddyfile", "--config", good)
	if code != 0 || !strings.Contains(stdout, "Valid configuration") {
		t.Errorf("validate: code %d: %s%s", code, stdout, stderr)
	}
}

func write(t *testing.T, caddyfile string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestValidateBesideRunning validates a configuration with the addresses of a
// process that runs. That takes no notice.
func TestValidateBesideRunning(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	caddyfile := site(proxyTo(up.Addr))
	c := startCaddy(t, caddyfile)
	client := c.dial(t, false)
	client.Handshake("/")

	_, before, err := c.adminRequest(t, "GET", "/config/", "")
	if err != nil {
		t.Fatal(err)
	}
	other := write(t, site("respond no\n"+proxyTo(up.Addr)))
	if code, _, stderr := c.subcommand(t, "validate", "--adapter", "caddyfile", "--config", other); code != 0 {
		t.Fatalf("validate: code %d: %s", code, stderr)
	}
	if _, after, err := c.adminRequest(t, "GET", "/config/", ""); err != nil || after != before {
		t.Errorf("the running configuration has changed: %s, %v", after, err)
	}
	client.Echo("hello")
	client.CloseHandshake(1000)
}

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestWebsocketsFailures(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo(up.Addr)))
	for _, bad := range []struct{ args, says string }{
		{"frobnicate", "not one of its commands"},
		{"list surplus", "takes no arguments"},
		{"list --frobnicate", "unknown flag"},
		{"list --client localhost", "--client is an IP address"},
		{"watch surplus", "takes no arguments"},
		{"close", "say which tunnels"},
		{"close id --all", "say which tunnels"},
		{"close --all --handler chat", "say which tunnels"},
		{"close id --period 1s", "--period is for filters"},
		{"close none", "no tunnel"},
		{"close ../../config", "no tunnel"},
		{"close --all --code 1005", "1005 is not allowed"},
		{"close --all --code 0", "0 is not allowed"},
		{"close --all --period soon", "--period is a duration"},
		{"close --all --period 25h", "--period is at most 24h, not 25h"},
		{"close --client localhost", "--client is an IP address"},
		{"close --label user=" + strings.Repeat("x", 129), "--label user has a value of 129 bytes"},
		{"close id --code 1005", "--code: 1005 is not allowed"},
		{"close --all --reason " + strings.Repeat("x", 124), "--reason: has 124 bytes"},
		{"drain", "say which upstream"},
		{"drain " + up.Addr + " surplus", "say which upstream"},
		{"drain none:1", "caddy websockets list shows"},
		{"maint none:1", "caddy websockets list shows"},
		{"maint " + up.Addr + " --period 1s", "unknown flag"},
		{"drain " + up.Addr + " --for 366d", "--for is at most 8760h, not 366d"},
		{"evict " + up.Addr + " --period 25h", "--period is at most 24h, not 25h"},
		{"drain " + up.Addr + " --period 1s", "unknown flag"},
		{"drain " + up.Addr + " --for 0", "--for is more than 0"},
		{"evict " + up.Addr + " --for -1s", "--for is a duration"},
		{"evict " + up.Addr + " --period x", "--period is a duration"},
		{"ready " + up.Addr + " --for 1h", "unknown flag"},
	} {
		code, stdout, stderr := c.websockets(t, strings.Fields(bad.args)...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, bad.says) {
			t.Errorf("%s: code %d, %q, %q; want 1 and %q", bad.args, code, stdout, stderr, bad.says)
		}
		expectNoAPI(t, bad.args, stderr)
	}
	if got := c.listedUpstreams(t)[up.Addr]; got.State != "ready" {
		t.Errorf("the upstream is %+v, want it ready", got)
	}
}

// expectNoAPI checks that a command speaks of itself, not of what it asks.
func expectNoAPI(tb testing.TB, args, stderr string) {
	tb.Helper()
	for _, word := range []string{"websocket_proxy/", "expires_in", "GET ", "POST ", "number of seconds"} {
		if strings.Contains(stderr, word) {
			tb.Errorf("%s says %q: %s", args, word, stderr)
		}
	}
}

// TestWebsocketsTellWhoKnows sets states that no other instance takes over, and
// such that all do.
func TestWebsocketsTellWhoKnows(t *testing.T) {
	t.Parallel()
	const note = "only the Caddy that was asked knows"
	local, shared := testbed.NewUpstream(t, testbed.Echo), sharedUpstream(t)
	c := startCaddy(t, onStorage(t.TempDir(), proxyTo(local.Addr+" "+shared.Addr)))
	for _, test := range []struct {
		args  string
		local bool
	}{
		{"drain " + local.Addr, true},
		{"evict " + local.Addr + " --no-wait", true},
		{"drain " + shared.Addr, false},
		{"evict " + shared.Addr, false},
	} {
		code, stdout, stderr := c.websockets(t, strings.Fields(test.args)...)
		if code != 0 || strings.Contains(stderr, note) != test.local {
			t.Errorf("%s: code %d, %q, %q; want a note: %t", test.args, code, stdout, stderr, test.local)
		}
		code, stdout, stderr = c.websockets(t, append(strings.Fields(test.args), "--json")...)
		if said := decode[struct{ Local bool }](t, stdout); code != 0 || said.Local != test.local {
			t.Errorf("%s --json: code %d, %q, %q", test.args, code, stdout, stderr)
		}
	}
	if _, _, stderr := c.websockets(t, "ready", local.Addr); strings.Contains(stderr, note) {
		t.Errorf("ready says %q", stderr)
	}
}

// TestWebsocketsFindTheEndpoint tells the command by a configuration where to
// ask.
func TestWebsocketsFindTheEndpoint(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	dir, err := os.MkdirTemp("", "integration") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	caddyfile := site(proxyTo(up.Addr))
	c := startCaddy(t, caddyfile)
	ask := func(config string) (code int, stdout, stderr string) {
		return c.subcommand(t, "websockets", "list", "--config", write(t, config), "--adapter", "caddyfile")
	}
	if code, stdout, stderr := ask(caddyfile); code != 0 || !strings.Contains(stdout, up.Addr) {
		t.Errorf("by the Caddyfile: code %d, %s%s", code, stdout, stderr)
	}
	if code, _, stderr := ask("{\nadmin off\n}\n"); code != 1 || !strings.Contains(stderr, "the admin endpoint is off in") {
		t.Errorf("with the endpoint off: code %d, %s", code, stderr)
	}
	code, _, stderr := ask("{\nadmin " + testbed.RefusedAddr(t) + "\n}\n")
	expectNoAPI(t, "an endpoint that is not there", stderr)
	if code != 1 || !strings.Contains(stderr, "is Caddy running there") {
		t.Errorf("where nobody listens: code %d, %s", code, stderr)
	}

	socket := "unix/" + filepath.Join(dir, "admin.sock")
	c.reload(t, strings.Replace(caddyfile, "admin {$ADMIN}", "admin "+socket, 1))
	code, stdout, stderr := c.subcommand(t, "websockets", "list", "--address", socket)
	if code != 0 || !strings.Contains(stdout, up.Addr) {
		t.Errorf("by a socket: code %d, %s%s", code, stdout, stderr)
	}
}

// endpoint plays an admin endpoint.
func endpoint(tb testing.TB, handler http.HandlerFunc) (addr string) {
	tb.Helper()
	server := httptest.NewServer(handler)
	tb.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestWebsocketsWithoutTheModule(t *testing.T) {
	t.Parallel()
	addr := endpoint(t, http.NotFound)
	code, _, stderr := runCaddy(t, "websockets", "list", "--address", addr)
	if code != 1 || !strings.Contains(stderr, "does not have the module websocket_proxy") {
		t.Errorf("code %d, %s", code, stderr)
	}
}

func TestWebsocketsStateThatIsNotStored(t *testing.T) {
	t.Parallel()
	addr := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ State string }
		if err := json.NewDecoder(r.Body).Decode(&asked); r.Method == http.MethodPost && err != nil {
			t.Error(err)
		}
		_, _ = fmt.Fprintf(w, `{"address":"a:1","state":"%s","tunnels":0,"stored":false,"problem":"the disk is full"}`, asked.State)
	})
	for _, command := range []string{"drain a:1", "ready a:1", "evict a:1", "evict a:1 --no-wait", "drain a:1 --json"} {
		code, stdout, stderr := runCaddy(t, append([]string{"websockets", "--address", addr}, strings.Fields(command)...)...)
		if code != 2 || !strings.Contains(stdout, "a:1") || strings.Contains(stderr, "exiting") ||
			!strings.Contains(stderr, "could not be stored") || !strings.Contains(stderr, "the disk is full") {
			t.Errorf("%s: code %d, %q, %q; want 2 and a warning", command, code, stdout, stderr)
		}
	}
}

// Somebody else has just said something else, by a clock that is ahead.
func TestWebsocketsStateThatDoesNotHold(t *testing.T) {
	t.Parallel()
	addr := endpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"address":"a:1","state":"ready","tunnels":0,"stored":false,"problem":"eve has set it to ready meanwhile"}`)
	})
	for _, command := range []string{"drain a:1", "evict a:1", "drain a:1 --json"} {
		code, stdout, stderr := runCaddy(t, append([]string{"websockets", "--address", addr}, strings.Fields(command)...)...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, "a:1 is in state ready: eve has set it") {
			t.Errorf("%s: code %d, %q, %q; want 1 and the cause", command, code, stdout, stderr)
		}
	}
}

func TestWebsocketsListAsksForAllPages(t *testing.T) {
	t.Parallel()
	addr := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if !r.Close {
			t.Error("a request keeps its connection")
		}
		pages := map[string]string{
			"":   `{"next":"T2","tunnels":[{"id":"T1"},{"id":"T2"}]}`,
			"T2": `{"next":"T3","tunnels":[{"id":"T3"}]}`,
			"T3": `{"next":"","tunnels":[{"id":"T4"}]}`,
		}
		if r.URL.Query().Get("handler") != "chat" {
			t.Errorf("a page is asked for as %s", r.URL)
		}
		_, _ = fmt.Fprint(w, pages[r.URL.Query().Get("after")])
	})
	list := func(flags ...string) string {
		code, stdout, stderr := runCaddy(t, append([]string{"websockets", "list", "--address", addr, "--handler", "chat"}, flags...)...)
		if code != 0 {
			t.Fatalf("code %d: %s", code, stderr)
		}
		return stdout
	}
	want := "{\"tunnels\":[{\"id\":\"T1\"},\n{\"id\":\"T2\"},\n{\"id\":\"T3\"},\n{\"id\":\"T4\"}]}\n"
	if got := list("--json"); got != want {
		t.Errorf("as JSON it prints %q, want %q", got, want)
	}
	table := rows(list())
	if len(table) != 5 || table[4][0] != "T4" {
		t.Errorf("the table is %q, want four tunnels", table)
	}
}

package integration

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// preStop is a run of examples/kubernetes/drain.sh.
type preStop struct {
	ended chan struct{} // closed when code and says are there
	code  int
	says  string
}

// startPreStop runs the script as the container of a pod with this address and
// environment.
func startPreStop(tb testing.TB, address, admin string, env ...string) *preStop {
	tb.Helper()
	for _, tool := range []string{"sh", "curl"} {
		testbed.Program(tb, tool)
	}
	const script = "../examples/kubernetes/drain.sh"
	if _, err := os.Stat(script); err != nil { // which tells the go command that results depend on it
		tb.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(timeLimit(tb), "sh", script)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "ADDRESS=" + address, "ADMIN=" + admin, "TIMEOUT=25"}, env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting the script: %v", err)
	}
	p := &preStop{ended: make(chan struct{})}
	wait := testbed.Go(tb, func(testing.TB) {
		defer close(p.ended)
		_ = cmd.Wait() // the exit code is in ProcessState
		p.code, p.says = cmd.ProcessState.ExitCode(), out.String()
	})
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		wait()
	})
	return p
}

// expect waits until the script has ended with a code and these words.
func (p *preStop) expect(tb testing.TB, code int, says ...string) {
	tb.Helper()
	within(tb, "the script has ended", p.ended)
	ok := p.code == code
	for _, words := range says {
		ok = ok && strings.Contains(p.says, words)
	}
	if !ok {
		tb.Errorf("the script ended with code %d and %q; want code %d and %q", p.code, p.says, code, says)
	}
}

// looks matches the script's looks at how many tunnels are left.
var looks = func(e entry) bool {
	return e.str("msg") == "received request" && e.str("method") == http.MethodGet && e.str("uri") == "/websocket_proxy/upstreams"
}

// startPods starts a Caddy with two upstreams that have a tunnel each.
func startPods(tb testing.TB) (c *caddy, one, two string, clients map[string]*testbed.Client) {
	tb.Helper()
	one, two = testbed.NewUpstream(tb, testbed.Echo).Addr, testbed.NewUpstream(tb, testbed.Echo).Addr
	c = startCaddy(tb, site(proxyTo(one+" "+two, "header_down X-Upstream {upstream_hostport}")))
	clients = make(map[string]*testbed.Client)
	for range 2 {
		client := c.dial(tb, false)
		clients[client.Handshake("/").Header.Get("X-Upstream")] = client
	}
	if clients[one] == nil || clients[two] == nil {
		tb.Fatalf("tunnels are to %v only", clients)
	}
	return c, one, two, clients
}

func TestPreStopWaitsUntilItsUpstreamIsEmpty(t *testing.T) {
	t.Parallel()
	c, one, two, clients := startPods(t)
	p := startPreStop(t, one, "http://"+c.admin)
	c.log.wait(t, 2, looks)
	select {
	case <-p.ended:
		t.Fatalf("with a tunnel open, it ended with code %d: %s", p.code, p.says)
	default:
	}
	elsewhere := c.dial(t, false)
	if up := elsewhere.Handshake("/").Header.Get("X-Upstream"); up != two {
		t.Errorf("a new tunnel goes to %s, want %s", up, two)
	}
	clients[one].Echo("still open")
	clients[one].CloseHandshake(1000)
	clients[one].Close()
	p.expect(t, 0, "drain: "+one+" is empty")
	elsewhere.Echo("not affected")
	clients[two].Echo("not affected")
	_, list, err := c.adminRequest(t, http.MethodGet, "/websocket_proxy/upstreams", "")
	if err != nil || !strings.Contains(list, `"by":"preStop of `) || !strings.Contains(list, `"expires":"`) {
		t.Errorf("the state is not signed or does not expire: %s, %v", list, err)
	}
}

func TestPreStopEvicts(t *testing.T) {
	t.Parallel()
	c, one, two, clients := startPods(t)
	left := leave(t, 1012, clients[one])
	startPreStop(t, one, "http://"+c.admin, "EVICT_PERIOD=1").expect(t, 0, "drain: "+one+" is empty")
	left()
	clients[two].Echo("not affected")
	if state := c.upstreamState(t, one); state != "evict" {
		t.Errorf("the state is %s", state)
	}
}

// TestPreStopAtSeveralCaddies has one with a tunnel, one without and one that is
// away.
func TestPreStopAtSeveralCaddies(t *testing.T) {
	t.Parallel()
	c, one, _, clients := startPods(t)
	other := startCaddy(t, site(proxyTo(one)))
	away := "http://" + testbed.FreeAddr(t)
	p := startPreStop(t, one, away+" http://"+other.admin+" http://"+c.admin)
	c.log.wait(t, 2, looks)
	for _, asked := range []*caddy{c, other} {
		if state := asked.upstreamState(t, one); state != "maint" {
			t.Errorf("the state is %s, want maint", state)
		}
	}
	clients[one].CloseHandshake(1000)
	clients[one].Close()
	p.expect(t, 1, "drain: "+away+" does not take out "+one+": curl: (7)", "drain: "+one+" is empty")
}

func TestPreStopFails(t *testing.T) {
	t.Parallel()
	c, one, _, _ := startPods(t)
	admin, away := "http://"+c.admin, "http://"+testbed.FreeAddr(t)
	tests := map[string]struct {
		address, admin, timeout string
		says                    []string
	}{
		"as tunnels are left": {one, admin, "1", []string{one + " is not empty after 1 seconds", admin + " has 1 left"}},
		"as Caddy is away":    {one, away, "20", []string{away + " does not take out " + one + ": curl: (7)"}},
		"as nobody knows the upstream": {
			"127.0.0.1:1", admin, "20",
			[]string{admin + " does not take out 127.0.0.1:1", `there is no upstream \"127.0.0.1:1\"`},
		},
		"as there is no address": {"", admin, "20", []string{"ADDRESS: is not set"}},
		"as there is no Caddy":   {one, "", "20", []string{"ADMIN: is not set"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPreStop(t, test.address, test.admin, "TIMEOUT="+test.timeout)
			within(t, "the script has ended", p.ended)
			if p.code == 0 || strings.Contains(p.says, "is empty") {
				t.Errorf("code %d: %s", p.code, p.says)
			}
			p.expect(t, p.code, test.says...)
		})
	}
}

// TestPreStopByMutualTLS goes by the site of examples/kubernetes/Caddyfile that
// lets pods reach the admin endpoint.
func TestPreStopByMutualTLS(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := prepareCaddy(t)
	c.run(t, clusterCaddyfile(t, c, up.Addr))
	client := c.dial(t, false)
	client.Handshake("/")
	left := leave(t, 1012, client)

	_, port, _ := strings.Cut(c.https, ":")
	admin := "https://localhost:" + port
	pod := tlsFolder(t, c.certs.CAFile, c.certs.ClientCertFile, c.certs.ClientKeyFile)
	startPreStop(t, up.Addr, admin, "ADMIN_TLS="+pod, "EVICT_PERIOD=1").expect(t, 0, "drain: "+up.Addr+" is empty")
	left()

	others := testbed.NewCerts(t)
	stranger := tlsFolder(t, c.certs.CAFile, others.ClientCertFile, others.ClientKeyFile)
	startPreStop(t, up.Addr, admin, "ADMIN_TLS="+stranger).expect(t, 1, admin+" does not take out "+up.Addr+": curl: (")

	transport := &http.Transport{TLSClientConfig: c.certs.MutualClientConfig(), DisableKeepAlives: true}
	for _, path := range []string{"/config/", "/stop", "/websocket_proxy/tunnels", "/websocket_proxy/upstreams/../../config/"} {
		req, err := http.NewRequestWithContext(timeLimit(t), http.MethodGet, admin+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s is answered with %d, want 403", path, resp.StatusCode)
		}
	}
}

// clusterCaddyfile is examples/kubernetes/Caddyfile with its addresses, files and
// upstreams replaced. What has to be replaced has to be there.
func clusterCaddyfile(tb testing.TB, c *caddy, upstream string) string {
	tb.Helper()
	file, err := os.ReadFile("../examples/kubernetes/Caddyfile")
	if err != nil {
		tb.Fatal(err)
	}
	text := string(file)
	for _, change := range [][2]string{
		{"admin localhost:2019", "admin {$ADMIN}\npersist_config off\nauto_https off\ndefault_bind 127.0.0.1"},
		{"localhost:2019", "{$ADMIN}"},
		{"chat.example.com {", "http://{$HTTP} {"},
		{"https://:2021 {", "https://:" + c.https[strings.LastIndex(c.https, ":")+1:] + " {"},
		{"tls /etc/caddy/site/tls.crt /etc/caddy/site/tls.key\n", "\n"},
		{"dynamic a chat 9000 {\n\t\t\trefresh 5s\n\t\t}", "to " + upstream},
		{"/etc/caddy/admin/tls.crt /etc/caddy/admin/tls.key", "{$CERT} {$KEY}"},
		{"/etc/caddy/admin/ca.crt", c.certs.CAFile},
	} {
		if strings.Count(text, change[0]) != 1 {
			tb.Fatalf("%q is there %d times, want once", change[0], strings.Count(text, change[0]))
		}
		text = strings.Replace(text, change[0], change[1], 1)
	}
	return text
}

// tlsFolder has files with the names that they have in a Secret.
func tlsFolder(tb testing.TB, authority, cert, key string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, file := range map[string]string{"ca.crt": authority, "tls.crt": cert, "tls.key": key} {
		if err := os.Symlink(file, filepath.Join(dir, name)); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

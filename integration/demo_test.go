package integration

import (
	"bytes"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// quickProxy runs the websocket-proxy command until the test ends, and waits
// until it serves.
func quickProxy(t *testing.T, from string, args ...string) (addr string) {
	t.Helper()
	c := prepareCaddy(t)
	addr = c.http
	cmd := c.command(t, "", append([]string{"websocket-proxy", "--from", from + addr}, args...)...)
	var output bytes.Buffer
	cmd.Stderr = &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(timeout):
			_ = cmd.Process.Kill()
			<-exited
			t.Error("the command did not stop")
		}
		if t.Failed() {
			t.Logf("the command said:\n%s", output.String())
		}
	})
	eventually(t, "the command serves", func() bool {
		req, err := http.NewRequestWithContext(timeLimit(t), http.MethodGet, "http://"+addr+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil
	})
	return addr
}

func TestDemoEchoesMessages(t *testing.T) {
	addr := quickProxy(t, "http://", "--demo")
	ctx := timeLimit(t)
	ws, _, err := websocket.Dial(ctx, "ws://"+addr+"/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	if err := ws.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := ws.Read(ctx); err != nil || string(got) != "hello" {
		t.Fatalf("got %q, %v, want hello", got, err)
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing: %v", err)
	}
}

func TestDemoPageSendsAndShowsMessagesInABrowser(t *testing.T) {
	needNode(t)
	browser := testbed.Program(t, "chromium")
	addr := quickProxy(t, "http://", "--demo")
	node(t, nil, "page.js", browser, "http://"+addr+"/")
}

func TestCommandProxiesToSeveralUpstreamsWithHeaderFields(t *testing.T) {
	certs := testbed.NewCerts(t)
	up := testbed.NewTLSUpstream(t, certs.ServerConfig(), func(tb testing.TB, c *testbed.Conn) {
		req := c.AcceptHandshake("X-Seen: yes")
		c.WriteFrame(testbed.NewFrame(testbed.Text, req.Header.Get("X-Up")+" "+req.Host))
		c.ReadAll()
	})
	addr := quickProxy(t, "http://", "--to", "wss://"+up.Addr, "--insecure", "--access-log",
		"--change-host-header", "--header-up", `X-Up: a "quoted" value`, "--header-down", "X-Down: 1")
	c := testbed.Dial(t, addr)
	resp := c.Handshake("/")
	if got := resp.Header.Get("X-Down"); got != "1" {
		t.Errorf("X-Down is %q, want 1", got)
	}
	c.ExpectFrame(testbed.Text, `a "quoted" value `+up.Addr)
	c.Close()
	up.WaitOpen(t, 0)

	plain := testbed.Dial(t, addr)
	plain.Send("GET / HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
	if resp := plain.Response(); resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a request without upgrade got %d, want 426", resp.StatusCode)
	}
}

func TestCommandSaysWhatIsWrongWithItsFlags(t *testing.T) {
	for _, tc := range []struct {
		want string
		args []string
	}{
		{"--to is required", nil},
		{"--demo brings its own upstream", []string{"--demo", "--to", "localhost:1"}},
		{"--header-up: invalid format", []string{"--to", "localhost:1", "--header-up", "nonsense"}},
		{"has the scheme ftp://; use ws:// or wss://", []string{"--to", "ftp://localhost:1"}},
	} {
		t.Run(tc.want, func(t *testing.T) {
			code, _, stderr := runCaddy(t, append([]string{"websocket-proxy"}, tc.args...)...)
			if code == 0 || !bytes.Contains([]byte(stderr), []byte(tc.want)) {
				t.Errorf("exit code %d, error %s, want it to contain %q", code, stderr, tc.want)
			}
		})
	}
}

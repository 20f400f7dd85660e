package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// hostile is text that does something to a terminal: with C0, DEL, C1 and
// bidirectional controls.
const hostile = "\x1b[31mc0\x7fdel\u009b31mc1\u202ebidi\u2028line"

// expectPrintable checks that text has no controls but the ends of its lines.
func expectPrintable(tb testing.TB, what, text string) {
	tb.Helper()
	if bad := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); bad >= 0 {
		tb.Errorf("%s has %q: %q", what, text[bad:min(len(text), bad+4)], text)
	}
	if !utf8.ValidString(text) {
		tb.Errorf("%s is no UTF-8: %q", what, text)
	}
}

// TestHostileTextInTheStorage has a document that somebody has tampered with.
func TestHostileTextInTheStorage(t *testing.T) {
	t.Parallel()
	up := sharedUpstream(t)
	storage := t.TempDir()
	address := "10.0.0.9:80" + hostile
	text, err := json.Marshal(map[string]any{"version": 1, "upstreams": map[string]any{
		address: map[string]any{"state": "drain", "by": "eve" + hostile, "at": time.Now()},
		up.Addr: map[string]any{"state": "drain", "by": "eve" + hostile, "at": time.Now()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(storage, "websocket_proxy")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "upstreams.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCaddy(t, onStorage(storage, proxyTo(up.Addr)))
	c.waitState(t, up.Addr, "maint") // as an older instance has meant it
	_, list, err := c.adminRequest(t, http.MethodGet, "/websocket_proxy/upstreams", "")
	if err != nil || !strings.Contains(list, "10.0.0.9:80") {
		t.Fatalf("the list is %q, %v", list, err)
	}
	expectPrintable(t, "the admin endpoint's list", list)
	for _, args := range [][]string{
		{"list"},
		{"list", "--json"},
		{"ready", address, "--json"},
		{"drain", address},
		{"evict", address},
		{"drain", "none" + hostile},
	} {
		_, stdout, stderr := c.websockets(t, args...)
		expectPrintable(t, fmt.Sprintf("the output of %q", args), stdout)
		expectPrintable(t, fmt.Sprintf("the errors of %q", args), onlyJSON(stderr))
	}
	expectPrintable(t, "the log", c.log.String())
}

// onlyJSON are the lines of a log that are meant for programs.
func onlyJSON(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "{") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// TestHostileTextOfAnEndpoint has an admin endpoint that escapes less.
func TestHostileTextOfAnEndpoint(t *testing.T) {
	t.Parallel()
	const bad = "\x7fdel\u009b31mc1\u202ebidi"
	addr := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/websocket_proxy/upstreams":
			_, _ = fmt.Fprintf(w, `{"upstreams":[{"address":"a%[1]s","state":"s%[1]s","health":"h%[1]s","by":"b%[1]s"}]}`, bad)
		case r.URL.Path == "/websocket_proxy/tunnels":
			_, _ = fmt.Fprintf(w, `{"tunnels":[{"id":"i%[1]s","client_ip":"c%[1]s","upstream":"u%[1]s","handler":"h%[1]s"}]}`, bad)
		case r.Method == http.MethodPost:
			var asked struct{ State string }
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
				t.Error(err)
			}
			_, _ = fmt.Fprintf(w, `{"address":"a%[1]s","state":"%[2]s","stored":false,"problem":"p%[1]s"}`, bad, asked.State)
		default:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"error":"e%s"}`, bad)
		}
	})
	for _, args := range []string{
		"list", "list --json", "list --tunnels", "list --tunnels --json", "drain a", "drain a --json", "evict a", "close id",
	} {
		_, stdout, stderr := runCaddy(t, append([]string{"websockets", "--address", addr}, strings.Fields(args)...)...)
		if stdout+stderr == "" {
			t.Errorf("%s says nothing", args)
		}
		expectPrintable(t, "the output of "+args, stdout)
		expectPrintable(t, "the errors of "+args, stderr)
	}
}

// TestHostileTextInRequests has an address that is made of what clients send.
func TestHostileTextInRequests(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	_, port, _ := strings.Cut(up.Addr, ":")
	c := startStreaming(t, "websocket_proxy {http.request.uri.query.host}:"+port+`
		handle_errors {
			respond "{err.message}"
		}`)
	good, bad := "/?host=127.0.0.1", "/?host="+url.QueryEscape("127.0.0.1"+hostile)
	for name, ask := range askers(c) {
		if name == "HTTP/1.0" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if status := ask(t, good); status != opens(name) {
				t.Errorf("a good address: %d, want %d", status, opens(name))
			}
			if status := ask(t, bad); status != http.StatusBadGateway {
				t.Errorf("a bad address: %d, want 502", status)
			}
		})
	}
	lines := c.log.wait(t, len(askers(c))-1, message("handshake refused", "cause", "bad_address"))
	if text := lines[0].str("error"); !strings.Contains(text, "has control characters") {
		t.Errorf("the cause is %q", text)
	}
	expectPrintable(t, "the log", c.log.String())
}

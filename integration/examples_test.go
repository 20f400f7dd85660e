package integration

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// examples are the files in examples/, with where in them a WebSocket is.
var examples = map[string]struct {
	paths  []string
	secure bool // the site has TLS, with the certificate that the file names
}{
	"acme":               {paths: []string{"/ws/chat"}},
	"from-apache":        {paths: []string{"/ws/chat", "/wss/chat"}},
	"from-haproxy":       {paths: []string{"/", "/anything"}},
	"from-nginx":         {paths: []string{"/ws"}},
	"from-reverse_proxy": {paths: []string{"/ws/chat"}},
	"long-timeouts":      {paths: []string{"/"}},
	"own-certificate":    {paths: []string{"/"}, secure: true},
	"socket.io":          {paths: []string{"/socket.io/?transport=websocket"}},
}

func TestExamplesProxyWebSockets(t *testing.T) {
	files, err := filepath.Glob("../examples/*.Caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".Caddyfile")
		t.Run(name, func(t *testing.T) {
			example, ok := examples[name]
			if !ok {
				t.Fatalf("this test does not know where the WebSocket of %s is", file)
			}
			up := testbed.NewUpstream(t, testbed.Echo)
			c := prepareCaddy(t)
			secured := testbed.NewTLSUpstream(t, c.certs.ServerConfig(), testbed.Echo)
			web := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(web.Close)
			c.run(t, localExample(t, file, up.Addr, secured.Addr, web.Listener.Addr().String(), c.certs.CAFile, example.secure),
				"TLS_CERT="+c.certs.ServerCertFile, "TLS_KEY="+c.certs.ServerKeyFile)
			for _, path := range example.paths {
				client := c.dial(t, example.secure)
				client.Handshake(path)
				client.Echo("through " + path)
				client.CloseHandshake(1000)
			}
		})
	}
}

// exampleUpstream is what upstreams are called in the examples.
var exampleUpstream = regexp.MustCompile(`\b10\.0\.0\.\d:\d+`)

// localUpstreams replaces the upstreams of an example: by web those that are
// named in a line with reverse_proxy.
func localUpstreams(text, upstream, web string) string {
	var lines []string
	for line := range strings.Lines(text) {
		to := upstream
		if strings.Contains(line, "reverse_proxy ") {
			to = web
		}
		lines = append(lines, exampleUpstream.ReplaceAllString(line, to))
	}
	return strings.Join(lines, "")
}

// localExample returns an example with its names replaced by local addresses.
// Nothing else of it changes, but that the test's authority is trusted.
func localExample(tb testing.TB, file, upstream, secured, web, authority string, secure bool) string {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	address := "http://{$HTTP}"
	if secure {
		address = "https://{$HTTPS}"
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if strings.HasSuffix(line, "example.com {\n") && !strings.HasPrefix(line, "\t") {
			line = address + " {\n"
		}
		lines = append(lines, line)
	}
	local := localUpstreams(strings.Join(lines, ""), upstream, web)
	local = strings.ReplaceAll(local, "wss://backend.example.net {", "wss://"+secured+` {
			transport http {
				tls_trust_pool file `+authority+`
			}`)
	return `{
	admin {$ADMIN}
	persist_config off
	auto_https off
	default_bind 127.0.0.1
}
` + local
}

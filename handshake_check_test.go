package websocketproxy

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// handshakeWith is a handshake with another method and a body.
func handshakeWith(method, body string, extra ...string) string {
	raw := testbed.HandshakeRequest("/", "example.com", extra...)
	return method + strings.TrimPrefix(raw, http.MethodGet) + body
}

func TestWrongHandshakesAreRefused(t *testing.T) {
	supported := map[string]string{fieldVersion: "13", "Upgrade": "", "Connection": ""}
	malformed := map[string]string{fieldVersion: "", "Upgrade": "", "Connection": ""}
	tests := map[string]struct {
		raw    string
		cause  cause
		status int
		fields map[string]string
		says   string
	}{
		"POST": {
			handshakeWith("POST", ""), causeMethod, http.StatusMethodNotAllowed,
			map[string]string{"Allow": "GET"},
			"POST",
		},
		"POST with a body": {
			handshakeWith("POST", "hello", "Content-Length: 5"), causeMethod, http.StatusMethodNotAllowed,
			map[string]string{"Allow": "GET"},
			"POST",
		},
		"OPTIONS": {
			handshakeWith("OPTIONS", ""), causeMethod, http.StatusMethodNotAllowed,
			map[string]string{"Allow": "GET"},
			"OPTIONS",
		},
		"CONNECT": {
			"CONNECT example.com:80" + strings.TrimPrefix(handshakeWith("", ""), " /"), causeMethod,
			http.StatusMethodNotAllowed,
			map[string]string{"Allow": "GET"},
			"CONNECT",
		},
		"no version": {
			handshakeWith("GET", "", "Sec-WebSocket-Version:"), causeMalformed, http.StatusBadRequest,
			supported, "no Sec-WebSocket-Version",
		},
		"differing versions in a list": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 13, 8"), causeMalformed, http.StatusBadRequest,
			supported, "differing",
		},
		"differing versions in two lines": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13"),
			causeMalformed, http.StatusBadRequest, supported, "differing",
		},
		"an older version": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 8"), causeVersion, http.StatusUpgradeRequired,
			map[string]string{fieldVersion: "13", "Upgrade": "websocket", "Connection": "Upgrade"},
			`"8"`,
		},
		"an older version twice": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 7, 7"), causeVersion, http.StatusUpgradeRequired,
			map[string]string{fieldVersion: "13", "Upgrade": "websocket", "Connection": "Upgrade"},
			`"7"`,
		},
		"a version that is only numerically 13": {
			handshakeWith("GET", "", "Sec-WebSocket-Version: 013"), causeVersion, http.StatusUpgradeRequired,
			map[string]string{fieldVersion: "13"},
			`"013"`,
		},
		"no key": {
			handshakeWith("GET", "", "Sec-WebSocket-Key:"), causeMalformed, http.StatusBadRequest, malformed, "0 ",
		},
		"the same key twice": {
			handshakeWith("GET", "", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
			causeMalformed, http.StatusBadRequest, malformed, "2 ",
		},
		"two keys in a line": {
			handshakeWith("GET", "", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="),
			causeMalformed, http.StatusBadRequest, malformed, "16 bytes",
		},
		"an empty key": {
			strings.Replace(handshakeWith("GET", ""), "dGhlIHNhbXBsZSBub25jZQ==", "", 1),
			causeMalformed, http.StatusBadRequest, malformed, "16 bytes",
		},
		"a key of 15 bytes": {
			handshakeWith("GET", "", "Sec-WebSocket-Key: "+base64.StdEncoding.EncodeToString(make([]byte, 15))),
			causeMalformed, http.StatusBadRequest, malformed, "16 bytes",
		},
		"a key of 17 bytes": {
			handshakeWith("GET", "", "Sec-WebSocket-Key: "+base64.StdEncoding.EncodeToString(make([]byte, 17))),
			causeMalformed, http.StatusBadRequest, malformed, "16 bytes",
		},
		"a key of 16 characters": {
			handshakeWith("GET", "", "Sec-WebSocket-Key: abcdefghijklmnop"),
			causeMalformed, http.StatusBadRequest, malformed, "16 bytes",
		},
		"a key without padding": {
			handshakeWith("GET", "", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"),
			causeMalformed, http.StatusBadRequest, malformed, "16 bytes",
		},
		"a key in the other alphabet": {
			handshakeWith("GET", "", "Sec-WebSocket-Key: -_-_-_-_-_-_-_-_-_-_-Q=="),
			causeMalformed, http.StatusBadRequest, malformed, "16 bytes",
		},
		"a body": {
			handshakeWith("GET", "hello", "Content-Length: 5"),
			causeMalformed, http.StatusBadRequest, malformed, "body",
		},
		"a chunked body": {
			handshakeWith("GET", "5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
			causeMalformed, http.StatusBadRequest, malformed, "body",
		},
		"a chunked body without content": {
			handshakeWith("GET", "0\r\n\r\n", "Transfer-Encoding: chunked"),
			causeMalformed, http.StatusBadRequest, malformed, "body",
		},
		"a wrong key and a wrong version": {
			handshakeWith("GET", "", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 1"),
			causeVersion, http.StatusUpgradeRequired,
			map[string]string{fieldVersion: "13"},
			"version",
		},
	}
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			line := p.expectRefusal(test.cause, test.status, func() {
				expectAnswer(t, c, test.raw, test.status, notFromNext(test.fields))
			})
			expectError(t, line, test.says)
			expectOrdinary(t, c)
		})
	}
	if n := up.Accepted(); n != 0 {
		t.Errorf("the upstream got %d connections, want 0", n)
	}
}

func TestRepeatedVersionIsAccepted(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	for _, lines := range [][]string{
		{"Sec-WebSocket-Version: 13, 13"},
		{"Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"},
		{"Sec-WebSocket-Version: ,13,"},
	} {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/", lines...)
		c.CloseHandshake(1000)
	}
}

// The client waits for a 100 or a final answer before it sends its body.
func TestHandshakeThatExpectsContinueIsRefused(t *testing.T) {
	p := proxyTo(t, testbed.RefusedAddr(t))
	c := testbed.Dial(t, p.Addr)
	p.expectRefusal(causeMalformed, http.StatusBadRequest, func() {
		resp := expectAnswer(t, c, handshakeWith("GET", "", "Content-Length: 5", "Expect: 100-continue"),
			http.StatusBadRequest, notFromNext(nil))
		if !resp.Close {
			t.Error("the connection stays open, though nobody knows whether a body follows")
		}
	})
}

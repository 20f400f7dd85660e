package integration

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestHTTP2Switch has Caddy as it is built, with no variable set, offer WebSockets over
// HTTP/2, and not offer them if GODEBUG says so. The log agrees with what is on the wire. If
// this fails with another version of Go or of Caddy, package http2 is not initialized before
// its servers any more, or GODEBUG has no such setting.
func TestHTTP2Switch(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	for name, test := range map[string]struct {
		debug string
		offer uint32
		says  string
	}{
		"no variable":          {"", 1, "WebSockets over HTTP/2 are on"},
		"other settings":       {"gctrace=0", 1, "WebSockets over HTTP/2 are on"},
		"switched on outside":  {"http2xconnect=1", 1, "WebSockets over HTTP/2 are on"},
		"switched off outside": {"http2xconnect=0", 0, "WebSockets over HTTP/2 are off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := site(proxyTo(up.Addr), streaming)
			c := startCaddy(t, config, "GODEBUG="+test.debug)
			c.reload(t, config)
			for _, secure := range []bool{true, false} {
				h := dialH2(t, c, secure)
				h.mu.Lock()
				got := h.settings[http2.SettingEnableConnectProtocol]
				h.mu.Unlock()
				if got != test.offer {
					t.Errorf("with TLS: %v: the server's SETTINGS_ENABLE_CONNECT_PROTOCOL is %d, want %d", secure, got, test.offer)
				}
			}
			if test.offer == 1 {
				openWebSocket(t, connectors["h2"](t, c), webSocket("/")).echo(t, "hello")
			}
			lines := c.log.find(func(e entry) bool { return strings.HasPrefix(e.str("msg"), "WebSockets over HTTP/2") })
			if len(lines) != 1 || lines[0].str("msg") != test.says || lines[0].str("level") != "info" {
				t.Errorf("the log says %v, want %q once", lines, test.says)
			}
		})
	}
}

// TestHTTP2SwitchIsQuiet has no server that speaks HTTP/2.
func TestHTTP2SwitchIsQuiet(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, site(proxyTo(testbed.RefusedAddr(t)), "servers {\nprotocols h1 h3\n}"))
	if lines := c.log.find(func(e entry) bool { return strings.Contains(e.str("msg"), "over HTTP/2") }); len(lines) > 0 {
		t.Errorf("the log says %v, want nothing of HTTP/2", lines)
	}
}

// TestListTellsProtocols lists one tunnel by each connector, and one over HTTP/1.1.
func TestListTellsProtocols(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startStreaming(t, proxyTo(up.Addr))
	c.openListed(t, 1)
	for _, connect := range connectors {
		openWebSocket(t, connect(t, c), webSocket("/"))
	}
	want := []string{"PROTO", "h1", "h2", "h2", "h3"}
	var got []string
	// A client is answered a moment before its tunnel can be found.
	eventually(t, "all tunnels are listed", func() bool {
		got = nil
		for _, row := range rows(c.done(t, "list", "--tunnels")) {
			got = append(got, row[2])
		}
		return len(got) == len(want)
	})
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the protocols are %q, want %q", got, want)
	}
}

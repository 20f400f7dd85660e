package websocketproxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// expires is a handler whose tunnels expire as the request's query says.
func expires(up *testbed.Upstream, rule expiry.Rule) *Handler {
	rule.At = "{http.request.uri.query.exp}"
	return &Handler{Upstreams: upstreams(up.Addr), Expiry: &rule}
}

func unixTime(t time.Time) string { return fmt.Sprintf("%.3f", float64(t.UnixMilli())/1000) }

func TestHandshakesThatHaveNoTime(t *testing.T) {
	up := testbed.NewUpstream(t, func(testing.TB, *testbed.Conn) { t.Error("the upstream was asked") })
	ago := time.Now().Add(-time.Minute)
	for name, test := range map[string]struct {
		exp       string
		rule      expiry.Rule
		status    int
		cause     string
		challenge string
	}{
		"expired":             {unixTime(ago), expiry.Rule{}, 401, "expired", `Bearer error="invalid_token", error_description="The token has expired"`},
		"expired, RFC 3339":   {ago.Format(time.RFC3339), expiry.Rule{}, 401, "expired", `Bearer error="invalid_token", error_description="The token has expired"`},
		"within the leeway":   {unixTime(ago), expiry.Rule{Leeway: 3600e9}, 401, "expired", `Bearer error="invalid_token", error_description="The token has expired"`},
		"expired, optional":   {unixTime(ago), expiry.Rule{Optional: true}, 401, "expired", `Bearer error="invalid_token", error_description="The token has expired"`},
		"none":                {"", expiry.Rule{}, 401, "no_expiry", "Bearer"},
		"none, to be told":    {"", expiry.Rule{OnExpired: expiry.Close}, 401, "no_expiry", "Bearer"},
		"no time":             {"tomorrow", expiry.Rule{}, 500, "bad_expiry", ""},
		"no time, optional":   {"tomorrow", expiry.Rule{Optional: true}, 500, "bad_expiry", ""},
		"milliseconds":        {fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()), expiry.Rule{}, 500, "bad_expiry", ""},
		"a token by mistake":  {"eyJhbGciOi-secret", expiry.Rule{}, 500, "bad_expiry", ""},
		"hostile":             {"\x1b[2J\x00\u202e" + strings.Repeat("9", 100<<10), expiry.Rule{}, 500, "bad_expiry", ""},
		"hostile, to be told": {"\xff\xfe", expiry.Rule{OnExpired: expiry.Close}, 500, "bad_expiry", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, expires(up, test.rule))
			p.target = "/?exp=" + url.QueryEscape(test.exp)
			c := testbed.Dial(t, p.Addr)
			c.Send("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			resp := c.Response()
			if resp.StatusCode != test.status || resp.Header.Get("WWW-Authenticate") != test.challenge {
				t.Errorf("status %d, WWW-Authenticate %q, want %d, %q", resp.StatusCode, resp.Header.Get("WWW-Authenticate"), test.status, test.challenge)
			}
			line := p.line("handshake refused")
			expectFields(t, line, map[string]any{"cause": test.cause, "status": int64(test.status)})
			if said, _ := line["error"].(string); strings.Contains(said, "secret") || len(said) > 400 || strings.Contains(said, "\x1b") {
				t.Errorf("the line says %q", said)
			}
		})
	}
}

func TestATunnelEndsWhenWhatItsClientCameWithExpires(t *testing.T) {
	api := startAdmin(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, expires(up, expiry.Rule{Code: 4001}))
	at := time.Now().Add(2 * time.Second)
	c := openPath(t, p, "/?exp="+unixTime(at))
	c.Echo("hello")
	if got := api.list(nil).Tunnels[0].Expires; got.Sub(at).Abs() > time.Second {
		t.Errorf("the list says that it expires at %v, want %v", got, at)
	}
	if reason := c.ExpectClose(4001); reason != "expired" || time.Now().Before(at) {
		t.Errorf("closed with %q at %v, want expired, not before %v", reason, time.Now(), at)
	}
	c.WriteFrame(testbed.NewClose(4001, ""))
	c.ExpectEOF()
	expectFields(t, p.closedLine(), map[string]any{"reason": "expired", "closed_by": "proxy"})
}

func TestATunnelWithoutATimeMayBeOptional(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, expires(up, expiry.Rule{Optional: true}))
	c := openPath(t, p, "/")
	c.Echo("hello")
	if got := process.live.Collect(nil)[0].Snapshot().Expires; !got.IsZero() {
		t.Errorf("it expires at %v", got)
	}
}

func TestATunnelKeepsItsTimeOverAReload(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	t.Cleanup(func() { expectNothingHeld(t) })
	h := expires(up, expiry.Rule{})
	unload := load(t, h)
	p := serve(t, h)
	c := openPath(t, p, "/?exp="+unixTime(time.Now().Add(2*time.Second)))
	load(t, expires(up, expiry.Rule{Code: 4009, OnExpired: expiry.Close}))
	unload()
	if reason := c.ExpectClose(1008); reason != "expired" {
		t.Errorf("closed with %q", reason)
	}
	c.WriteFrame(testbed.NewClose(1008, ""))
	c.ExpectEOF()
}

func TestScriptsAreToldByAClose(t *testing.T) {
	up := testbed.NewUpstream(t, func(testing.TB, *testbed.Conn) { t.Error("the upstream was asked") })
	h := expires(up, expiry.Rule{OnExpired: expiry.Close, Code: 4001})
	h.Access = &Access{Subprotocols: []string{"chat.v2", "chat.v1"}}
	p := newProxy(t, h)
	path := "/?exp=" + unixTime(time.Now().Add(-time.Second))
	for name, test := range map[string]struct {
		offered, want string
		answer        func(c *testbed.Client)
	}{
		"it answers":       {"chat.v0, chat.v1, chat.v2", "chat.v1", func(c *testbed.Client) { c.WriteFrame(testbed.NewClose(4001, "")) }},
		"it just goes":     {"", "", func(c *testbed.Client) { c.Close() }},
		"it says nothing":  {"chat.v2", "chat.v2", func(*testbed.Client) {}},
		"it goes on":       {"chat.v2", "chat.v2", func(c *testbed.Client) { c.WriteFrame(testbed.NewFrame(testbed.Text, "hello")) }},
		"it sends garbage": {"chat.v2", "chat.v2", func(c *testbed.Client) { c.Send("\xff\xff\xff\xff") }},
	} {
		t.Run(name, func(t *testing.T) {
			before := p.logs.FilterMessage("handshake refused").Len()
			c := testbed.Dial(t, p.Addr)
			extra := []string{"Sec-WebSocket-Extensions: permessage-deflate"}
			if test.offered != "" {
				extra = append(extra, "Sec-WebSocket-Protocol: "+test.offered)
			}
			resp := c.Handshake(path, extra...)
			if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Protocol") != test.want ||
				resp.Header.Get("Sec-WebSocket-Extensions") != "" {
				t.Errorf("the answer is %d with %v, want 101 with the subprotocol %q", resp.StatusCode, resp.Header, test.want)
			}
			if reason := c.ExpectClose(4001); reason != "expired" {
				t.Errorf("closed with %q", reason)
			}
			test.answer(c)
			eventually(t, "nobody is being told", func() bool { return process.clients.Held() == 0 })
			eventually(t, "it counts as refused", func() bool { return p.logs.FilterMessage("handshake refused").Len() == before+1 })
			expectFields(t, p.line("handshake refused"), map[string]any{"cause": "expired", "status": int64(401)})
		})
	}
	if n := p.logs.FilterMessage("tunnel closed").Len(); n != 0 || process.live.Count() != 0 {
		t.Errorf("%d tunnels have ended, and there are %d", n, process.live.Count())
	}
}

// Whoever holds as many farewells as one client may have takes them from no other.
func TestOneClientIsToldSoManyTimes(t *testing.T) {
	up := testbed.NewUpstream(t, func(testing.TB, *testbed.Conn) { t.Error("the upstream was asked") })
	p := newProxy(t, expires(up, expiry.Rule{OnExpired: expiry.Close}))
	path := "/?exp=" + unixTime(time.Now().Add(-time.Second))
	status := func() int {
		c := testbed.Dial(t, p.Addr)
		defer c.Close()
		c.Send(testbed.HandshakeRequest(path, p.Addr))
		return c.Response().StatusCode
	}
	take := func(addr string) (leave func()) {
		client, _ := upstream.ClientOf(addr)
		var places []*upstream.ClientPlace
		for range farewellsPerClient {
			places = append(places, process.clients.Enter(farewells{ofOne: true}, client, farewellsPerClient))
		}
		return func() {
			for _, place := range places {
				place.Leave()
			}
		}
	}
	others, own := take("192.0.2.1"), take("127.0.0.1")
	if got := status(); got != http.StatusUnauthorized {
		t.Errorf("the answer is %d, want 401 to whom so many are told already", got)
	}
	own()
	if got := status(); got != http.StatusSwitchingProtocols {
		t.Errorf("the answer is %d, want 101 while another client has all of its own", got)
	}
	others()
	eventually(t, "nobody is being told", func() bool { return process.clients.Held() == 0 })
	for range mostFarewells {
		t.Cleanup(process.clients.Enter(farewells{}, netip.Prefix{}, mostFarewells).Leave)
	}
	if got := status(); got != http.StatusUnauthorized {
		t.Errorf("the answer is %d, want 401 while as many are told as may be", got)
	}
}

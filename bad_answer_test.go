package websocketproxy

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// switching is the text of a 101 for the usual key. The extras work as in
// testbed.HandshakeRequest.
func switching(extra ...string) string {
	return testbed.HandshakeResponse("dGhlIHNhbXBsZSBub25jZQ==", extra...)
}

// expectGateway checks that a handshake is answered with a status of the proxy's
// own, that it is told why, and that nothing of the upstream is held.
func (p *testProxy) expectGateway(tb testing.TB, up *testbed.Upstream, why cause, status int, says string) {
	tb.Helper()
	c := testbed.Dial(tb, p.Addr)
	line := p.expectRefusal(why, status, func() {
		expectAnswer(tb, c, testbed.HandshakeRequest("/", "example.com"), status,
			notFromNext(map[string]string{"Server": "Caddy", "Via": "", "X-Upstream": "", "Upgrade": ""}))
	})
	expectError(tb, line, says)
	expectFields(tb, line, map[string]any{"upstream": up.Addr})
	up.WaitOpen(tb, 0)
	if n := tunnelsOf(up.Addr); n != 0 {
		tb.Errorf("%d tunnels are counted, want 0", n)
	}
	expectOrdinary(tb, c)
}

func TestWrongSwitchingProtocolsIsRefused(t *testing.T) {
	const accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	tests := map[string]struct{ raw, says string }{
		"wrong accept":                {switching("Sec-WebSocket-Accept: c3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "Sec-WebSocket-Accept"},
		"accept in other case":        {switching(strings.ToLower(accept)), "Sec-WebSocket-Accept"},
		"accept for another key":      {testbed.HandshakeResponse("AAAAAAAAAAAAAAAAAAAAAA=="), "Sec-WebSocket-Accept"},
		"no accept":                   {switching("Sec-WebSocket-Accept:"), "Sec-WebSocket-Accept"},
		"accept twice":                {switching(accept, accept), "Sec-WebSocket-Accept"},
		"a right and a wrong accept":  {switching(accept, "Sec-WebSocket-Accept: x"), "Sec-WebSocket-Accept"},
		"the key instead":             {switching("Sec-WebSocket-Accept: dGhlIHNhbXBsZSBub25jZQ=="), "Sec-WebSocket-Accept"},
		"no Upgrade":                  {switching("Upgrade:"), "not websocket"},
		"Upgrade to h2c":              {switching("Upgrade: h2c"), "h2c"},
		"Upgrade to a longer word":    {switching("Upgrade: websockets"), "websockets"},
		"Upgrade to two":              {switching("Upgrade: websocket, h2c"), "h2c"},
		"Upgrade to two in two lines": {switching("Upgrade: websocket", "Upgrade: foo"), "foo"},
		"no Connection":               {switching("Connection:"), "Connection"},
		"Connection without Upgrade":  {switching("Connection: keep-alive"), "Connection"},
		"over HTTP/1.0":               {strings.Replace(switching(), "HTTP/1.1", "HTTP/1.0", 1), "HTTP/1.0"},
		"over HTTP/2.0":               {strings.Replace(switching(), "HTTP/1.1", "HTTP/2.0", 1), "HTTP/2.0"},
		"a subprotocol":               {switching("Sec-WebSocket-Protocol: chat"), "subprotocol that was not offered"},
		"an empty subprotocol":        {strings.Replace(switching(), "\r\n\r\n", "\r\nSec-WebSocket-Protocol:\r\n\r\n", 1), "subprotocol"},
		"an extension":                {switching("Sec-WebSocket-Extensions: permessage-deflate"), `"permessage-deflate"`},
		"with more after the header":  {switching("X-Upstream: 1", "Upgrade: h2c") + "\x81\x02hi", "h2c"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.RespondKeepOpen(test.raw))
			proxyTo(t, up.Addr).expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, test.says)
		})
	}
}

func TestChoiceOfWhatWasNotOfferedIsRefused(t *testing.T) {
	offered := []string{"Sec-WebSocket-Protocol: chat, superchat", "Sec-WebSocket-Extensions: foo; a=\"b\", bar"}
	tests := map[string]struct{ chosen []string }{
		"another subprotocol":                {[]string{"Sec-WebSocket-Protocol: mqtt"}},
		"a subprotocol in other case":        {[]string{"Sec-WebSocket-Protocol: Chat"}},
		"two subprotocols":                   {[]string{"Sec-WebSocket-Protocol: chat, superchat"}},
		"two subprotocols in two lines":      {[]string{"Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: superchat"}},
		"the same subprotocol in two lines":  {[]string{"Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: chat"}},
		"another extension":                  {[]string{"Sec-WebSocket-Extensions: baz"}},
		"another extension among others":     {[]string{"Sec-WebSocket-Extensions: foo; x, baz; y=1"}},
		"another extension in a second line": {[]string{"Sec-WebSocket-Extensions: foo", "Sec-WebSocket-Extensions: baz"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.RespondKeepOpen(switching(test.chosen...)))
			p := proxyTo(t, up.Addr)
			c := testbed.Dial(t, p.Addr)
			p.expectRefusal(causeBadAnswer, http.StatusBadGateway, func() {
				expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com", offered...),
					http.StatusBadGateway, notFromNext(map[string]string{handshake.FieldProtocol: "", handshake.FieldExtensions: ""}))
			})
			up.WaitOpen(t, 0)
		})
	}
}

func TestChoiceOfWhatWasOfferedIsAccepted(t *testing.T) {
	for _, lines := range [][]string{
		{"Sec-WebSocket-Protocol: chat"},
		{"Sec-WebSocket-Protocol: superchat", "Sec-WebSocket-Extensions: foo"},
		{"Sec-WebSocket-Extensions: bar;a;b=\"c\", foo"},
		{"Sec-WebSocket-Extensions: bar ; a", "Sec-WebSocket-Extensions: foo"},
	} {
		up := testbed.NewUpstream(t, testbed.EchoWith(lines...))
		t.Run(strings.Join(lines, " and "), func(t *testing.T) {
			head, _ := proxyTo(t, up.Addr).accepted(t, "Sec-WebSocket-Protocol: chat",
				"Sec-WebSocket-Protocol: superchat", "Sec-WebSocket-Extensions: foo,bar; x")
			for _, line := range lines {
				if !strings.Contains(head, line+"\r\n") {
					t.Errorf("no %q in:\n%s", line, head)
				}
			}
		})
	}
}

// The operator may offer something in the client's place.
func TestChoiceOfWhatTheOperatorOffers(t *testing.T) {
	const config = `{"headers": {"request": {"set": {"Sec-WebSocket-Protocol": ["mqtt"]}}}}`
	t.Run("is accepted", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.EchoWith("Sec-WebSocket-Protocol: mqtt"))
		newProxy(t, with(t, up.Addr, config)).accepted(t, "Sec-WebSocket-Protocol: chat")
	})
	t.Run("is the only one", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.RespondKeepOpen(switching("Sec-WebSocket-Protocol: chat")))
		p := newProxy(t, with(t, up.Addr, config))
		c := testbed.Dial(t, p.Addr)
		expectAnswer(t, c, testbed.HandshakeRequest("/", "x", "Sec-WebSocket-Protocol: chat"),
			http.StatusBadGateway, nil)
	})
}

func TestChoiceOfWhatTheOperatorWithholdsIsRefused(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.RespondKeepOpen(switching("Sec-WebSocket-Extensions: permessage-deflate")))
	p := newProxy(t, with(t, up.Addr, `{"headers": {"request": {"delete": ["Sec-WebSocket-Extensions"]}}}`))
	c := testbed.Dial(t, p.Addr)
	p.expectRefusal(causeBadAnswer, http.StatusBadGateway, func() {
		raw := testbed.HandshakeRequest("/", "x", "Sec-WebSocket-Extensions: permessage-deflate")
		expectAnswer(t, c, raw, http.StatusBadGateway, nil)
	})
}

func TestInformationalResponsesArePassedOn(t *testing.T) {
	const hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nSet-Cookie: no=1\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"
	five := strings.Repeat(hint, 4) + "HTTP/1.1 100 Continue\r\n\r\n"
	expectInformed := func(t *testing.T, c *testbed.Client) {
		t.Helper()
		if len(c.Informed) != 5 || c.Informed[4].StatusCode != http.StatusContinue || len(c.Informed[4].Header) != 0 {
			t.Fatalf("got %v, want four hints and a Continue", c.Informed)
		}
		for _, resp := range c.Informed[:4] {
			want := http.Header{"Link": {"</a.css>"}, "Set-Cookie": {"no=1"}}
			if resp.StatusCode != http.StatusEarlyHints || !reflect.DeepEqual(resp.Header, want) {
				t.Errorf("got %d with %v, want the hint's own fields", resp.StatusCode, resp.Header)
			}
		}
	}
	t.Run("five", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.RespondKeepOpen(five+switching("X-Upstream: 1")))
		p := proxyTo(t, up.Addr)
		c := testbed.Dial(t, p.Addr)
		resp := c.Handshake("/")
		expectInformed(t, c)
		expectStatus(t, resp, http.StatusSwitchingProtocols, map[string]string{"Set-Cookie": "", "Link": "", "X-Upstream": "1"})
	})
	t.Run("five before another answer", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.RespondKeepOpen(five+"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"))
		p := proxyTo(t, up.Addr)
		c := testbed.Dial(t, p.Addr)
		c.Send(testbed.HandshakeRequest("/", "example.com"))
		resp := c.Response()
		expectInformed(t, c)
		if body := c.Body(resp); resp.StatusCode != http.StatusNotFound || body != "no" || resp.Header.Get("Link") != "" {
			t.Errorf("got %d %q %v, want 404 no", resp.StatusCode, body, resp.Header)
		}
	})
	t.Run("what earlier handlers have set is in the final one", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.RespondKeepOpen(hint+switching()))
		p := proxyTo(t, up.Addr)
		p.header = http.Header{"X-Earlier": {"1"}}
		c := testbed.Dial(t, p.Addr)
		resp := c.Handshake("/")
		if got := c.Informed[0].Header.Get("X-Earlier"); got != "" {
			t.Errorf("the hint has X-Earlier: %s", got)
		}
		expectStatus(t, resp, http.StatusSwitchingProtocols, map[string]string{"X-Earlier": "1"})
	})
	t.Run("six", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.RespondKeepOpen(strings.Repeat(hint, 6)+switching()))
		proxyTo(t, up.Addr).expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "informational")
	})
	t.Run("what is no status", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.RespondKeepOpen("HTTP/1.1 001 What\r\n\r\n"+switching()))
		proxyTo(t, up.Addr).expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "status")
	})
}

// Some servers have two layers that both say so. Browsers connect to them.
func TestUpgradeToWebSocketTwice(t *testing.T) {
	for _, lines := range [][]string{{"Upgrade: websocket, WebSocket"}, {"Upgrade: websocket", "Upgrade: websocket"}} {
		t.Run(strings.Join(lines, " and "), func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.EchoWith(lines...))
			_, resp := proxyTo(t, up.Addr).accepted(t)
			if got := resp.Header["Upgrade"]; len(got) != 1 || got[0] != "websocket" {
				t.Errorf("the client gets Upgrade %q, want it once", got)
			}
		})
	}
}

func TestWhatIsNotHTTPIsRefused(t *testing.T) {
	for name, raw := range map[string]string{
		"garbage":                "\x00\x01\x02\x03\r\n\r\n",
		"a banner":               "220 mail.example ESMTP\r\n",
		"another protocol":       "RTSP/1.0 200 OK\r\n\r\n",
		"no status":              "HTTP/1.1 \r\n\r\n",
		"a status of words":      "HTTP/1.1 abc OK\r\n\r\n",
		"a negative status":      "HTTP/1.1 -01 OK\r\n\r\n",
		"a header without colon": "HTTP/1.1 200 OK\r\nfoo\r\n\r\n",
		"a header name of space": "HTTP/1.1 200 OK\r\n foo: bar\r\n\r\n",
		"two lengths":            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"a wrong length":         "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"an unknown coding":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, testbed.RespondKeepOpen(raw))
			proxyTo(t, up.Addr).expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "reading the answer")
		})
	}
	t.Run("an end in the middle of the header", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.Respond("HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso"))
		proxyTo(t, up.Addr).expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "EOF")
	})
	t.Run("an end in the middle of the status line", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.Respond("HTTP"))
		proxyTo(t, up.Addr).expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "malformed")
	})
}

func TestHeaderOfTheAnswerIsBounded(t *testing.T) {
	t.Run("without configuration", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.EndlessHeaders)
		proxyTo(t, up.Addr).expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "too large")
	})
	t.Run("by the transport", func(t *testing.T) {
		up := testbed.NewUpstream(t, testbed.RespondKeepOpen(switching("X-Long: "+strings.Repeat("x", 5000))))
		p := newProxy(t, with(t, up.Addr, `{"transport": {"protocol": "http", "max_response_header_size": 4096}}`))
		p.expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "too large")
	})
	t.Run("informational responses included", func(t *testing.T) {
		long := "HTTP/1.1 103 Early Hints\r\nX: " + strings.Repeat("x", 1500) + "\r\n\r\n"
		up := testbed.NewUpstream(t, testbed.RespondKeepOpen(strings.Repeat(long, 5)+switching()))
		p := newProxy(t, with(t, up.Addr, `{"transport": {"protocol": "http", "max_response_header_size": 4096}}`))
		p.expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "too large")
	})
	t.Run("large enough", func(t *testing.T) {
		long := "X-Long: " + strings.Repeat("x", 900_000)
		up := testbed.NewUpstream(t, testbed.EchoWith(long))
		head, _ := proxyTo(t, up.Addr).accepted(t)
		if !strings.Contains(head, long) {
			t.Errorf("the long field is not in the %d bytes of the head", len(head))
		}
	})
}

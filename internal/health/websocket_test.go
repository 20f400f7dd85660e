package health

import (
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// answersPing is an upstream that does something when it has got the ping, and
// then takes part in the closing handshake.
func answersPing(script func(c *testbed.Conn, ping testbed.Frame)) testbed.Script {
	return func(tb testing.TB, c *testbed.Conn) {
		c.AcceptHandshake()
		ping := c.ReadFrame()
		if ping.Opcode != testbed.Ping || !ping.Masked || len(ping.Payload) < 16 {
			tb.Errorf("the upstream gets %v, want a ping with a payload", ping)
		}
		script(c, ping)
		c.ExpectClose(1000)
		c.WriteFrame(testbed.NewClose(1000, ""))
		c.CloseWrite()
		c.ExpectEOF()
	}
}

func pong(ping testbed.Frame) testbed.Frame {
	return testbed.NewFrame(testbed.Pong, string(ping.Payload))
}

func TestWebSocketCheckPasses(t *testing.T) {
	t.Parallel()
	tests := map[string]testbed.Script{
		"a pong": answersPing(func(c *testbed.Conn, ping testbed.Frame) { c.WriteFrame(pong(ping)) }),
		"data before the pong": answersPing(func(c *testbed.Conn, ping testbed.Frame) {
			first := testbed.NewFrame(testbed.Text, "frag")
			first.Fin = false
			c.WriteFrame(first)
			c.WriteFrame(testbed.NewFrame(testbed.Pong, ""))
			c.WriteFrame(testbed.NewFrame(0, "ment"))
			c.WriteFrame(testbed.NewFrame(testbed.Binary, ""))
			c.WriteFrame(testbed.NewFrame(testbed.Binary, strings.Repeat("x", 3<<20)))
			c.WriteFrame(pong(ping))
			c.WriteFrame(testbed.NewFrame(testbed.Text, "too late"))
		}),
		"another pong before the right one": answersPing(func(c *testbed.Conn, ping testbed.Frame) {
			c.WriteFrame(testbed.NewFrame(testbed.Pong, "nobody asked"))
			c.WriteFrame(pong(ping))
		}),
		"a ping of its own": answersPing(func(c *testbed.Conn, ping testbed.Frame) {
			c.WriteFrame(testbed.NewFrame(testbed.Ping, "are you there?"))
			c.ExpectFrame(testbed.Pong, "are you there?")
			c.WriteFrame(pong(ping))
		}),
		"frames glued to the 101": func(_ testing.TB, c *testbed.Conn) {
			r := c.ReadRequest()
			c.Send(testbed.HandshakeResponse(r.Header.Get("Sec-WebSocket-Key")) +
				string(testbed.NewFrame(testbed.Text, "welcome").Bytes(false)))
			c.WriteFrame(pong(c.ReadFrame()))
			c.ExpectClose(1000)
			c.WriteFrame(testbed.NewClose(1000, ""))
		},
		"closed without an answer to the Close": func(_ testing.TB, c *testbed.Conn) {
			c.AcceptHandshake()
			c.WriteFrame(pong(c.ReadFrame()))
			c.ExpectClose(1000)
		},
		"no answer to the Close at all": func(_ testing.TB, c *testbed.Conn) {
			c.AcceptHandshake()
			c.WriteFrame(pong(c.ReadFrame()))
			c.ExpectClose(1000)
			c.ExpectEOF() // two seconds later
		},
	}
	for name, script := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := testbed.NewUpstream(t, script)
			testbed.ExpectProblem(t, probed(t, up.Addr, Probe{Kind: WebSocket}), "")
			up.WaitOpen(t, 0) // the upstream is satisfied, too
		})
	}
}

func TestWebSocketCheckFails(t *testing.T) {
	t.Parallel()
	pinged := func(script func(c *testbed.Conn, ping testbed.Frame)) testbed.Script {
		return func(_ testing.TB, c *testbed.Conn) {
			c.AcceptHandshake()
			script(c, c.ReadFrame())
			c.Tolerate()
			c.Drain()
		}
	}
	tests := map[string]struct {
		script testbed.Script
		want   string
	}{
		"no pong": {pinged(func(*testbed.Conn, testbed.Frame) {}), "waiting for the pong: took longer than 100ms"},
		"the wrong pong": {pinged(func(c *testbed.Conn, _ testbed.Frame) {
			c.WriteFrame(testbed.NewFrame(testbed.Pong, "wrong"))
		}), "waiting for the pong: took longer than 100ms"},
		"an echo instead": {pinged(func(c *testbed.Conn, ping testbed.Frame) {
			c.WriteFrame(testbed.NewFrame(testbed.Text, string(ping.Payload)))
		}), "waiting for the pong: took longer than 100ms"},
		"half a frame":         {pinged(func(c *testbed.Conn, _ testbed.Frame) { c.Send("\x8a\x7d...") }), "waiting for the pong: took longer"},
		"half a frame of data": {pinged(func(c *testbed.Conn, _ testbed.Frame) { c.Send("\x82\x7d...") }), "waiting for the pong: took longer"},
		"a Close":              {pinged(func(c *testbed.Conn, _ testbed.Frame) { c.WriteFrame(testbed.NewClose(1008, "no")) }), "closed with status 1008"},
		"a masked frame":       {pinged(func(c *testbed.Conn, ping testbed.Frame) { c.Send(string(pong(ping).Bytes(true))) }), "violates the protocol"},
		"an end":               {pinged(func(c *testbed.Conn, _ testbed.Frame) { c.CloseWrite() }), "waiting for the pong: EOF"},
		"another status":       {testbed.Answer("403 Forbidden", ""), "status 403, not 101"},
		"a wrong key":          {testbed.Answer("101 Switching Protocols", "", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: x"), "Sec-WebSocket-Accept"},
		"no answer":            {testbed.Silent, "waiting for the answer: took longer than 100ms"},
		"closed at once":       {testbed.CloseAfterHead, "waiting for the answer: EOF"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := testbed.NewUpstream(t, test.script)
			p := Probe{Kind: WebSocket}
			if strings.Contains(test.want, "took longer") {
				p.Timeout = soon
			}
			testbed.ExpectProblem(t, probed(t, up.Addr, p), test.want)
		})
	}
}

func TestWebSocketCheckWantsOneOfItsSubprotocols(t *testing.T) {
	t.Parallel()
	for chosen, want := range map[string]string{"": "none of the offered subprotocols", "other": "subprotocol that was not offered", "chat": ""} {
		t.Run(chosen, func(t *testing.T) {
			t.Parallel()
			var extra []string
			if chosen != "" {
				extra = append(extra, "Sec-WebSocket-Protocol: "+chosen)
			}
			up := testbed.NewUpstream(t, testbed.EchoWith(extra...))
			offer := Request{Header: http.Header{"Sec-WebSocket-Protocol": {"chat"}}}
			testbed.ExpectProblem(t, probed(t, up.Addr, Probe{Kind: WebSocket, Request: offer}), want)
		})
	}
}

package websocketproxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// many returns frames that are larger than every buffer of a handshake together.
func many(masked bool) (raw string, payloads []string) {
	var b strings.Builder
	for i := range 300 {
		payload := fmt.Sprintf("%d:%s", i, strings.Repeat("x", i))
		b.Write(testbed.NewFrame(testbed.Text, payload).Bytes(masked))
		payloads = append(payloads, payload)
	}
	return b.String(), payloads
}

func expectFrames(c *testbed.Conn, payloads []string) {
	for _, payload := range payloads {
		c.ExpectFrame(testbed.Text, payload)
	}
}

func TestFramesOfTheClientThatComeBeforeTheAnswer(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	raw, payloads := many(true)
	head := testbed.HandshakeRequest("/", "example.com")
	for name, parts := range map[string][]string{
		"glued to the request":    {head + raw},
		"one by itself":           {head, raw[:len(raw)/3], raw[len(raw)/3:]},
		"the first byte is glued": {head + raw[:1], raw[1:]},
		"a part is glued":         {head + raw[:1000], raw[1000:]},
	} {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			c.Send(parts[0])
			u := up.Next(t)
			req := u.ReadRequest()
			for _, part := range parts[1:] {
				c.Send(part)
			}
			u.Accept(req)
			c.Response()
			expectFrames(u, payloads)
			u.WriteFrame(testbed.NewFrame(testbed.Text, "answer"))
			c.ExpectFrame(testbed.Text, "answer")
			c.Send("more")
			u.Expect("more")
			c.Close()
			u.ExpectEOF()
		})
	}
}

func TestFramesOfTheUpstreamThatAreGluedToItsAnswer(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	raw, payloads := many(false)
	head := switching()
	for name, parts := range map[string][]string{
		"all":                      {head + raw},
		"a byte":                   {head + raw[:1], raw[1:]},
		"as much as a buffer has":  {head + raw[:4096-len(head)], raw[4096-len(head):]},
		"after hints":              {"HTTP/1.1 103 Early Hints\r\n\r\n" + head + raw},
		"the header comes in bits": {head[:20], head[20 : len(head)-1], head[len(head)-1:] + raw},
	} {
		t.Run(name, func(t *testing.T) {
			c := testbed.Dial(t, p.Addr)
			c.Send(testbed.HandshakeRequest("/", "example.com"))
			u := up.Next(t)
			u.ReadRequest()
			for _, part := range parts {
				u.Send(part)
			}
			c.Response()
			expectFrames(c.Conn, payloads)
			c.WriteFrame(testbed.NewFrame(testbed.Text, "answer"))
			u.ExpectFrame(testbed.Text, "answer")
			c.Close()
			u.ExpectEOF()
		})
	}
}

func TestFramesOfBothThatAreGlued(t *testing.T) {
	up := testbed.NewUpstream(t, nil)
	p := proxyTo(t, up.Addr)
	fromClient, clients := many(true)
	fromUpstream, upstreams := many(false)
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com") + fromClient)
	u := up.Next(t)
	u.ReadRequest()
	u.Send(switching() + fromUpstream)
	c.Response()
	expectFrames(c.Conn, upstreams)
	expectFrames(u, clients)
}

// Glued bytes and the end of the stream behind them.
func TestUpstreamThatEndsRightAfterItsAnswer(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Respond(switching()+"\x88\x02\x03\xe8"))
	p := proxyTo(t, up.Addr)
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/")
	c.ExpectClose(1000)
	c.ExpectEOF()
	c.Close()
	expectFields(t, p.closedLine(), map[string]any{"reason": "upstream_closed", "close_code": uint16(1000)})
}

// What follows a refused handshake is the next request, as in every HTTP.
func TestRequestAfterARefusedHandshakeMayBeGlued(t *testing.T) {
	p := proxyTo(t, testbed.RefusedAddr(t))
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	expectAnswer(t, c, lines("GET / HTTP/1.1"), 502, notFromNext(nil))
	if resp := c.Response(); resp.StatusCode != 200 {
		t.Errorf("the second status is %d, want 200", resp.StatusCode)
	}
}

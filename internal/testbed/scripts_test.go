package testbed_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestScripts(t *testing.T) {
	handshake := testbed.HandshakeRequest("/", "example.com")
	tests := map[string]struct {
		script testbed.Script
		client func(c *testbed.Client)
	}{
		"Silent": {testbed.Silent, func(c *testbed.Client) {
			c.Send(handshake)
			c.ExpectNothing(10 * time.Millisecond)
			c.CloseWrite()
			c.ExpectEOF()
		}},
		"BlackHole": {testbed.BlackHole, func(c *testbed.Client) {
			c.ExpectNothing(10 * time.Millisecond)
		}},
		"CloseAtOnce":    {testbed.CloseAtOnce, (*testbed.Client).ExpectEOF},
		"CloseAfterHead": {testbed.CloseAfterHead, func(c *testbed.Client) { c.Send(handshake); c.ExpectEOF() }},
		"ResetAfterHead": {testbed.ResetAfterHead, func(c *testbed.Client) { c.Send(handshake); c.ExpectReset() }},
		"Respond": {testbed.Respond("HTTP/1.1 403 No\r\n\r\nsorry"), func(c *testbed.Client) {
			c.Send(handshake)
			resp := c.Response()
			if body := c.Body(resp); resp.StatusCode != http.StatusForbidden || body != "sorry" {
				t.Errorf("got status %d and body %q, want 403 and sorry", resp.StatusCode, body)
			}
		}},
		"Answer": {testbed.Answer("403 No", "sorry", "X-A: 1", "X-B: 2"), func(c *testbed.Client) {
			c.Send(handshake)
			c.Expect("HTTP/1.1 403 No\r\nX-A: 1\r\nX-B: 2\r\n\r\nsorry")
			c.ExpectEOF()
		}},
		"RespondKeepOpen": {testbed.RespondKeepOpen("raw"), func(c *testbed.Client) {
			c.Send(handshake)
			c.Expect("raw")
			c.ExpectNothing(10 * time.Millisecond)
		}},
		"HalfHead": {testbed.HalfHead, func(c *testbed.Client) {
			c.Send(handshake)
			c.Expect("HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso")
			c.ExpectNothing(10 * time.Millisecond)
		}},
		"EndlessHeaders": {testbed.EndlessHeaders, func(c *testbed.Client) {
			c.Send(handshake)
			c.Expect("HTTP/1.1 101 Switching Protocols\r\nX-Filler-0: xxx")
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			u := testbed.NewUpstream(t, test.script)
			c := testbed.Dial(t, u.Addr)
			test.client(c)
			if name != "BlackHole" {
				c.Close()
				u.WaitOpen(t, 0)
			}
		})
	}
}

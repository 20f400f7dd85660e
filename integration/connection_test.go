package integration

import (
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestConnectionNamesWhatAnEarlierHandlerHasSet has a client name a field in Connection
// that is not its own: it is removed as RFC 9110 section 7.6.1 asks, as nobody knows
// who has set it, unless the guard of SECURITY.md is there.
func TestConnectionNamesWhatAnEarlierHandlerHasSet(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, nil)
	const set = "request_header X-User alice\n"
	c := startCaddy(t, site("handle /guarded {\n"+set+"@ws websocket\nrequest_header @ws Connection Upgrade\n"+proxyTo(up.Addr)+"\n}\n"+
		set+proxyTo(up.Addr)))
	for path, want := range map[string]string{"/guarded": "alice", "/": ""} {
		client := c.dial(t, false)
		client.Send(testbed.HandshakeRequest(path, client.Host, "Connection: X-User, Upgrade"))
		u := up.Next(t)
		if got := u.AcceptHandshake().Header.Get("X-User"); got != want {
			t.Errorf("%s: the upstream gets X-User %q, want %q", path, got, want)
		}
		client.Response()
		client.Tolerate()
		u.Tolerate()
		client.Close()
		u.Drain()
	}
}

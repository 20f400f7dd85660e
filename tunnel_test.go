package websocketproxy

import (
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

func TestTunnelPassesMessagesBothWays(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, up.Addr)
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/chat")
	c.Echo("hello")
	if got := tunnelsOf(up.Addr); got != 1 {
		t.Errorf("%d tunnels counted, want 1", got)
	}
	c.CloseHandshake(1000)
	expectFields(t, p.closedLine(), map[string]any{
		"reason":       "client_closed",
		"closed_by":    "client",
		"close_code":   uint16(1000),
		"close_from":   "client",
		"messages_in":  uint64(1),
		"messages_out": uint64(1),
		"upstream":     up.Addr,
	})
	up.WaitOpen(t, 0)
}

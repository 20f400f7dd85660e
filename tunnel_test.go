package websocketproxy

import (
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
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

// The end of a long message is not shown.
func TestMessagesAreCountedWhenTheyEnd(t *testing.T) {
	one := newTunnel(about{}, new(tunnelPolicy), nil, nil)
	const size = 1 << 20
	header := []byte{0x82, 127, 0, 0, 0, 0, 0, size >> 16, 0, 0}
	d := relay.UpstreamToClient
	if v := one.Inspect(d, header); v.Pass != len(header) || v.Ahead != size {
		t.Fatalf("the verdict is %+v, want that %d bytes follow", v, size)
	}
	for _, want := range []uint64{0, 1} {
		one.Skip(d, size/2)
		if got := one.messages[d].Load(); got != want {
			t.Errorf("%d messages, want %d", got, want)
		}
	}
}

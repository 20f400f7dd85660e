package tunnel

import (
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// The end of a long message is not shown.
func TestMessagesAreCountedWhenTheyEnd(t *testing.T) {
	one := New(About{}, new(Options), nil, nil)
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

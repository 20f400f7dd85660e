package tunnel

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// BenchmarkInspect is what a tunnel costs for each chunk of bytes besides
// reading and writing it.
func BenchmarkInspect(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 32 << 10} {
		b.Run(fmt.Sprintf("chunk=one/size=%d", size), func(b *testing.B) {
			benchInspect(b, Options{}, testbed.NewFrame(testbed.Binary, strings.Repeat("x", size)).Bytes(true))
		})
	}
	b.Run("chunk=many/size=64", func(b *testing.B) {
		one := string(testbed.NewFrame(testbed.Text, strings.Repeat("x", 64)).Bytes(true))
		benchInspect(b, Options{}, []byte(strings.Repeat(one, 32<<10/len(one))))
	})
}

func benchInspect(b *testing.B, policy Options, chunk []byte) {
	b.Helper()
	t := New(About{}, &policy, nil, nil)
	b.ReportAllocs()
	for b.Loop() {
		if v := t.Inspect(relay.ClientToUpstream, chunk); v.Pass != len(chunk) {
			b.Fatalf("got %+v, want all to pass", v)
		}
	}
}

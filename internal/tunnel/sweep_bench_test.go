package tunnel

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// BenchmarkSweep is what a round of the sweep costs for tunnels in which nothing
// happens, and of which no time is over.
func BenchmarkSweep(b *testing.B) {
	for _, n := range []int{9_000, 90_000} {
		b.Run(fmt.Sprintf("idle/tunnels=%d", n), func(b *testing.B) {
			benchSweep(b, n, &Options{Idle: time.Hour, Write: time.Minute, HalfClose: time.Minute, MaxLifetime: 24 * time.Hour})
		})
	}
}

func benchSweep(b *testing.B, n int, options *Options) {
	b.Helper()
	live := NewRegistry(nil)
	all := make([]*Tunnel, n)
	for i := range all {
		all[i] = New(About{ID: fmt.Sprint(i)}, options, live, freehold{})
		all[i].Meter = new(recorder)
		all[i].Start(func(relay.Hooks) relay.Relay { return new(idleRelay) }, func() float64 { return 0.5 })
	}
	close(live.stop) // its rounds are those of the benchmark
	<-live.swept
	now := time.Now()
	live.round(now) // looks at those that are new
	b.ReportAllocs()
	for b.Loop() {
		live.round(now)
	}
}

package tunnel

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// BenchmarkSweep is what a round of the sweep costs for tunnels in which nothing
// happens: if none of their times is over, and if each is to be pinged every 30 rounds.
func BenchmarkSweep(b *testing.B) {
	for _, n := range []int{9_000, 90_000} {
		b.Run(fmt.Sprintf("idle/tunnels=%d", n), func(b *testing.B) {
			benchSweep(b, n, 0, &Options{Idle: time.Hour, Write: time.Minute, HalfClose: time.Minute, MaxLifetime: 24 * time.Hour})
		})
		b.Run(fmt.Sprintf("pinged/tunnels=%d", n), func(b *testing.B) {
			benchSweep(b, n, SweepInterval, &Options{Write: time.Minute, HalfClose: time.Minute, Ping: 30 * time.Second, PingTimeout: time.Minute})
		})
	}
}

func benchSweep(b *testing.B, n int, step time.Duration, options *Options) {
	b.Helper()
	live := NewRegistry(nil)
	live.stop = make(chan struct{}) // its rounds are those of the benchmark
	for i := range n {
		t := New(About{ID: fmt.Sprint(i)}, options, live, freehold{})
		t.Meter = new(recorder)
		t.Start(func(relay.Hooks) relay.Relay { return new(idleRelay) }, func() float64 { return 0.5 })
	}
	now := time.Now()
	live.round(now) // looks at those that are new
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(step)
		live.round(now)
	}
}

package tunnel

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// BenchmarkSweep is what a round of the sweep costs for tunnels in which nothing happens,
// if none of their times is over, and if each is to be pinged every 30 rounds; and for
// tunnels that have all been touched.
func BenchmarkSweep(b *testing.B) {
	idle := &Options{Idle: time.Hour, Write: time.Minute, HalfClose: time.Minute, MaxLifetime: 24 * time.Hour}
	pinged := &Options{Write: time.Minute, HalfClose: time.Minute, Ping: 30 * time.Second, PingTimeout: time.Minute}
	for _, n := range []int{9_000, 90_000} {
		b.Run(fmt.Sprintf("idle/tunnels=%d", n), func(b *testing.B) { benchSweep(b, n, idle, 0, false) })
		b.Run(fmt.Sprintf("pinged/tunnels=%d", n), func(b *testing.B) { benchSweep(b, n, pinged, SweepInterval, false) })
		b.Run(fmt.Sprintf("touched/tunnels=%d", n), func(b *testing.B) { benchSweep(b, n, idle, 0, true) })
	}
}

// benchSweep makes rounds at a distance in time.
func benchSweep(b *testing.B, n int, options *Options, step time.Duration, touched bool) {
	b.Helper()
	live := NewRegistry(nil)
	live.stop = make(chan struct{}) // its rounds are those of the benchmark
	all := make([]*Tunnel, n)
	for i := range all {
		t := New(About{ID: fmt.Sprint(i)}, options, live, freehold{})
		t.Meter = new(recorder)
		t.Start(func(relay.Hooks) relay.Relay { return new(idleRelay) }, func() float64 { return 0.5 })
		all[i] = t
	}
	now := time.Now()
	live.round(now) // looks at those that are new
	b.ReportAllocs()
	for b.Loop() {
		if touched {
			b.StopTimer()
			for _, t := range all {
				t.touch()
			}
			b.StartTimer()
		}
		now = now.Add(step)
		live.round(now)
	}
}

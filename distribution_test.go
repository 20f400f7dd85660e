package websocketproxy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// thousands is how many tunnels the tests here open: some hundreds, or thousands if
// LONG is set.
func thousands() int {
	if os.Getenv("LONG") != "" {
		return 3000
	}
	return 300
}

// backends starts some upstreams.
func backends(tb testing.TB, n int) (all []*testbed.Upstream, dials []string) {
	tb.Helper()
	for range n {
		up := testbed.NewUpstream(tb, testbed.Echo)
		all, dials = append(all, up), append(dials, up.Addr)
	}
	return all, dials
}

func counts(dials []string) []int {
	all := make([]int, len(dials))
	for i, dial := range dials {
		all[i] = tunnelsOf(dial)
	}
	return all
}

// churn has workers open n tunnels, and end some of them again at random.
func churn(t *testing.T, p *testProxy, n int) {
	t.Helper()
	const workers = 16
	var all sync.WaitGroup
	for range workers {
		all.Add(1)
		testbed.Go(t, func(tb testing.TB) {
			tb.Helper()
			defer all.Done()
			var open []*testbed.Client
			for range n / workers {
				c := testbed.Dial(tb, p.Addr)
				c.Handshake("/")
				open = append(open, c)
				for len(open) > 0 && rand.IntN(2) == 0 {
					i := rand.IntN(len(open))
					open[i].Close()
					open = slices.Delete(open, i, i+1)
				}
			}
		})
	}
	all.Wait()
}

// TestRampOfRealTunnels counts where handshakes go while an upstream starts
// slowly, and compares with what should be expected of each at its moment,
// however fast they are.
func TestRampOfRealTunnels(t *testing.T) {
	const parts = 5
	_, dials := backends(t, 3)
	h := startingSlowly(dials...)
	slow := 2 * time.Second
	if os.Getenv("LONG") != "" {
		slow = 10 * time.Second
	}
	h.LoadBalancing.SlowStart = caddy.Duration(slow)
	p := newProxy(t, h)
	for range 10 { // so that the newcomer has fewer than the others
		for _, dial := range dials[:2] {
			defer process.table.TunnelEnded(reserve(dial))
		}
	}
	became := time.Now()
	process.evictor.Discovered(h.pool.Fixed[2:], nil)
	var got, want [parts]float64
	for {
		passed := time.Since(became)
		part := int(parts * passed / slow)
		if part >= parts {
			break
		}
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/")
		want[part] += float64(time.Since(became)+passed) / 2 / float64(slow)
		if tunnelsOf(dials[2]) > 0 {
			got[part]++
		}
		c.Close()
		eventually(t, "the tunnel is over", func() bool { return tunnelsOf(dials[2]) == 0 && tunnelsOf(dials[0])+tunnelsOf(dials[1]) == 20 })
	}
	t.Logf("chosen %v, expected %v", got, want)
	for i := range got {
		// Chance makes it differ by the root of it.
		if off := got[i] - want[i]; off*off > (0.1*want[i])*(0.1*want[i])+16*want[i] {
			t.Errorf("in part %d it was chosen %v times, want about %v", i, got[i], want[i])
		}
	}
}

// TestUpstreamThatComesAndGoes has an upstream fail now and then under
// handshakes: clients do not notice, and the tunnels of the others stay.
func TestUpstreamThatComesAndGoes(t *testing.T) {
	var asked atomic.Int64
	flapping := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
		tb.Helper()
		if asked.Add(1)%2 == 1 {
			return // closed without an answer
		}
		testbed.Echo(tb, c)
	})
	_, dials := backends(t, 2)
	p := newProxy(t, &Handler{Upstreams: upstreams(append(dials, flapping.Addr)...)})
	var staying []*testbed.Client
	for len(staying) < 30 {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/")
		staying = append(staying, c)
	}
	for range thousands() {
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/")
		c.Close()
	}
	for i, c := range staying {
		c.Echo(fmt.Sprint("still here: ", i))
	}
	// That it closes connections is held against nobody: a client may have made it.
	if n := p.logs.FilterMessage("trying another upstream").Len(); n <= settings.DefaultMaxFails {
		t.Errorf("%d of %d handshakes were tried again, want more", n, thousands()+30)
	}
	if failing := failingAddresses(); len(failing) > 0 {
		t.Errorf("failing are %v, want none", failing)
	}
}

// TestUpstreamThatIsRestartedUnderLoad has an upstream refuse connections for a
// while: retries hide it, and it gets its share back.
func TestUpstreamThatIsRestartedUnderLoad(t *testing.T) {
	var down atomic.Bool
	restarted := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
		tb.Helper()
		if !down.Load() {
			testbed.Echo(tb, c)
		}
	})
	_, dials := backends(t, 2)
	dials = append(dials, restarted.Addr)
	p := newProxy(t, &Handler{
		Upstreams:    upstreams(dials...),
		HealthChecks: &HealthChecks{Passive: &PassiveHealthChecks{FailDuration: caddy.Duration(200 * time.Millisecond)}},
	})
	down.Store(true)
	churn(t, p, thousands())
	if got := tunnelsOf(restarted.Addr); got != 0 {
		t.Errorf("%d tunnels to an upstream that is down", got)
	}
	down.Store(false)
	eventually(t, "it is trusted again", func() bool { // which needs somebody to try it
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/")
		c.Close()
		return !slices.Contains(doubtfulAddresses(), restarted.Addr)
	})
	for range thousands() {
		testbed.Dial(t, p.Addr).Handshake("/")
	}
	after := counts(dials)
	if slices.Max(after)-slices.Min(after) > 1 {
		t.Errorf("the tunnels are %v, want them level within 1", after)
	}
}

package integration

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// pairTunnels are the tunnels of a test that does things to all pairs at once.
type pairTunnels struct {
	mu  sync.Mutex
	all map[pair]*pairTunnel
}

// openPairs opens a tunnel at each site.
func openPairs(t *testing.T, sites []*pairSite) *pairTunnels {
	t.Helper()
	open := &pairTunnels{all: make(map[pair]*pairTunnel)}
	onEachPair(t, sites, func(tb testing.TB, s *pairSite) {
		tb.Helper()
		one := s.open(tb)
		one.talk(tb)
		open.mu.Lock()
		defer open.mu.Unlock()
		open.all[s.pair] = one
	})
	if t.Failed() {
		t.FailNow()
	}
	return open
}

// each does something to each tunnel.
func (o *pairTunnels) each(t *testing.T, do func(tb testing.TB, one *pairTunnel)) {
	t.Helper()
	var sites []*pairSite
	for _, one := range o.all {
		sites = append(sites, one.site)
	}
	onEachPair(t, sites, func(tb testing.TB, s *pairSite) {
		tb.Helper()
		do(tb, o.all[s.pair])
	})
}

// startPairs starts a Caddy with a handler for each pair.
func startPairs(t *testing.T, name string, options ...string) (*caddy, []*pairSite) {
	t.Helper()
	c := prepareCaddy(t)
	sites := newPairSites(t, c, name, promise{options: options})
	c.run(t, caddyfileOf("", sites...), "GODEBUG=http2xconnect=1")
	return c, sites
}

func TestEveryPairIsCounted(t *testing.T) {
	t.Parallel()
	c, sites := startPairs(t, "counters")
	all := openPairs(t, sites)
	ups := c.listedUpstreams(t)
	const handler = `handler="default"`
	opened := map[string]float64{"handshakes_in_progress{" + handler + "}": 0}
	closed := map[string]float64{
		"tunnels_closed_total{" + handler + `,reason="client_closed"}`: float64(len(sites)),
		"tunnel_duration_seconds_count{" + handler + "}":               float64(len(sites)),
	}
	for _, s := range sites {
		if got := ups[s.addresses[0]].Tunnels; got != 1 {
			t.Errorf("%v: %d tunnels are counted at the upstream, want 1", s, got)
		}
		both := fmt.Sprintf(`%s,upstream="%s"`, handler, s.addresses[0])
		opened["tunnels{"+both+"}"] = 1
		opened["tunnels_opened_total{"+handler+`,protocol="`+s.protocol()+`"}`]++
		closed["tunnels{"+both+"}"] = 0
		closed[`messages_total{direction="in",`+both+"}"] = 1
		closed[`messages_total{direction="out",`+both+"}"] = 1
		// A word and a Close each way, masked from the client.
		closed[`bytes_total{direction="in",`+both+"}"] = 6 + 2 + 6 + 2
		closed[`bytes_total{direction="out",`+both+"}"] = 2 + 4 + 2 + 2
	}
	c.waitMetrics(t, opened)
	all.each(t, func(tb testing.TB, one *pairTunnel) { tb.Helper(); one.leave(tb) })
	c.waitMetrics(t, closed)
	expectNothingLeft(t, c, sites)
}

// TestEveryPairOutlivesReloads loads a configuration with the same handlers, then one
// with none, and then one that has them again.
func TestEveryPairOutlivesReloads(t *testing.T) {
	t.Parallel()
	c, sites := startPairs(t, "reload", "evict_period off")
	all := openPairs(t, sites)
	talk := func(tb testing.TB, one *pairTunnel) { tb.Helper(); one.talk(tb) }
	for _, more := range []string{"header X-Version 2", "respond gone", "header X-Version 3"} {
		kept := sites
		if more == "respond gone" {
			kept = nil
		}
		c.reload(t, caddyfileOf(more, kept...))
		all.each(t, talk)
	}
	onEachPair(t, sites, func(tb testing.TB, s *pairSite) {
		tb.Helper()
		one := s.open(tb)
		one.talk(tb)
		one.leave(tb)
	})
	all.each(t, func(tb testing.TB, one *pairTunnel) {
		tb.Helper()
		one.leave(tb)
		one.expectLine(tb, "client_closed", "client")
		handled := c.log.wait(tb, 1, message("handled request", "tunnel", one.id))
		if len(handled) != 1 || handled[0].num("status") != float64(one.site.accepts()) {
			tb.Errorf("the access log has %v, want one line with the status %d", handled, one.site.accepts())
		}
	})
	expectNothingLeft(t, c, sites)
}

// TestEveryPairIsToldOfTheExit ends the process: of all tunnels, and of those of an older
// configuration. Each client is told within shutdown_period, which some then answer, and
// some do not.
func TestEveryPairIsToldOfTheExit(t *testing.T) {
	t.Parallel()
	for name, reload := range map[string]bool{"loaded": false, "not loaded any more": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const period = 3 * time.Second
			c, sites := startPairs(t, "exit", "evict_period off", "shutdown_period "+period.String())
			all := openPairs(t, sites)
			if reload {
				c.reload(t, caddyfileOf("respond gone"))
			}
			began := time.Now()
			c.signal(t, syscall.SIGTERM)
			all.each(t, func(tb testing.TB, one *pairTunnel) {
				tb.Helper()
				one.client.expect(tb, testbed.NewClose(1001, ""))
				if strings.HasSuffix(one.site.upstream, "TLS") {
					one.u.ExpectClose(1001) // though the client does not answer
				} else {
					one.client.send(tb, testbed.NewClose(1001, "as you wish"))
					if said := one.u.ExpectClose(1001); said != "as you wish" {
						tb.Errorf("the upstream's Close says %q, want the client's answer", said)
					}
				}
				one.u.Close()
				one.expectEnd(tb)
				one.expectLine(tb, "shutdown", "proxy")
			})
			c.expectExit(t)
			// However busy the machine is, what is bounded by nothing takes ten seconds.
			if took := time.Since(began); took > period+5*time.Second {
				t.Errorf("the exit has taken %v, want about %v at most", took, period)
			}
		})
	}
}
